import Foundation

/// The primitives that the core takes from its platform: CryptoKit on Apple systems, OpenSSL on Linux, where the core is tested.
protocol CryptographyProvider {
    /// SHA-256 of `data`, 32 bytes.
    static func sha256(_ data: Data) -> Data
    /// SHA-256 of memory that is not copied, 32 bytes.
    static func sha256(of bytes: UnsafeRawBufferPointer) -> Data
    /// HMAC-SHA256, 32 bytes.
    static func hmac(_ data: Data, key: Data) -> Data
    /// HKDF-SHA256 (RFC 5869), `count` bytes.
    static func hkdf(_ key: Data, salt: Data, info: Data, count: Int) -> Data
    /// Whether 65 bytes are a point of P-256.
    static func isPoint(_ x963: Data) -> Bool
    /// Whether `signature` (r || s) is the key's ES256 signature of `data`.
    static func verify(_ signature: Data, of data: Data, key: PublicKey) -> Bool
    /// Opens AES-256-GCM into `plaintext`, which has the ciphertext's length; false, and zeros, when the tag does not fit.
    static func openGCM(
        _ ciphertext: Data, tag: Data, key: Data, nonce: Data, authenticating: Data,
        into plaintext: UnsafeMutableRawBufferPointer
    ) -> Bool
}
