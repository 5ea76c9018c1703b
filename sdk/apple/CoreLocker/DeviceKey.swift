import Foundation

/// A P-256 agreement key pair, on phones inside the secure hardware.
///
/// ```swift
/// let key: any DeviceKey = try SecureEnclaveDeviceKey(service: "com.example.camera")
/// ```
public protocol DeviceKey: Sendable {
    /// The public half.
    var publicKey: PublicKey { get }

    /// The plaintext of HPKE's enc || ciphertext (RFC 9180: base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM).
    ///
    /// - Throws: ``CoreLockerError`` with `licenseWrap` when it does not open.
    func open(_ sealed: Data, info: Data) throws -> Data
}

/// A device key in memory: for simulators, development and tests. A service in production refuses what vouches for it.
///
/// ```swift
/// let key = SoftwareDeviceKey()
/// ```
public struct SoftwareDeviceKey: DeviceKey {
    private let key: SoftwarePrivateKey

    /// A new key pair.
    public init() { key = SoftwarePrivateKey() }

    init?(scalar: Data, publicKey: PublicKey) {
        guard let key = SoftwarePrivateKey(scalar: scalar, publicKey: publicKey) else { return nil }
        self.key = key
    }

    public var publicKey: PublicKey { key.publicKey }

    public func open(_ sealed: Data, info: Data) throws -> Data {
        guard let plaintext = key.open(sealed, info: info) else {
            throw CoreLockerError(.licenseWrap, "The wrapped content key does not open with this device key")
        }
        return plaintext
    }
}
