#if !canImport(CryptoKit)
    import COpenSSL
    import Foundation

    typealias Cryptography = OpenSSLCryptography

    /// The primitives by OpenSSL 3, for Linux.
    enum OpenSSLCryptography: CryptographyProvider {
        static func sha256(_ data: Data) -> Data { data.withUnsafeBytes(sha256(of:)) }

        static func sha256(of bytes: UnsafeRawBufferPointer) -> Data {
            var digest = [UInt8](repeating: 0, count: 32)
            precondition(EVP_Digest(bytes.baseAddress, bytes.count, &digest, nil, EVP_sha256(), nil) == 1)
            return Data(digest)
        }

        static func hmac(_ data: Data, key: Data) -> Data {
            var code = [UInt8](repeating: 0, count: 32)
            var length = 0
            let (secret, input) = ([UInt8](key), [UInt8](data))
            let done = EVP_Q_mac(
                nil, "HMAC", nil, "SHA256", nil, secret, secret.count, input, input.count, &code, 32, &length)
            precondition(done != nil && length == 32)
            return Data(code)
        }

        static func hkdf(_ key: Data, salt: Data, info: Data, count: Int) -> Data {
            var output = [UInt8](repeating: 0, count: count)
            let (secret, salt, info) = ([UInt8](key), [UInt8](salt), [UInt8](info))
            precondition(
                corelocker_hkdf(secret, secret.count, salt, salt.count, info, info.count, &output, count) == 1)
            return Data(output)
        }

        static func isPoint(_ x963: Data) -> Bool {
            guard let key = corelocker_p256([UInt8](x963), x963.count, nil, 0) else { return false }
            EVP_PKEY_free(key)
            return true
        }

        static func verify(_ signature: Data, of data: Data, key: PublicKey) -> Bool {
            guard let der = derSignature(signature), let pkey = corelocker_p256([UInt8](key.x963), 65, nil, 0),
                let context = EVP_MD_CTX_new()
            else { return false }
            defer {
                EVP_PKEY_free(pkey)
                EVP_MD_CTX_free(context)
            }
            let input = [UInt8](data)
            return EVP_DigestVerifyInit(context, nil, EVP_sha256(), nil, pkey) == 1
                && EVP_DigestVerify(context, der, der.count, input, input.count) == 1
        }

        private static func derSignature(_ signature: Data) -> [UInt8]? {
            let bytes = [UInt8](signature)
            guard bytes.count == 64, let parts = ECDSA_SIG_new() else { return nil }
            defer { ECDSA_SIG_free(parts) }
            let r = BN_bin2bn(Array(bytes[..<32]), 32, nil)
            let s = BN_bin2bn(Array(bytes[32...]), 32, nil)
            guard ECDSA_SIG_set0(parts, r, s) == 1 else { return nil }
            var encoded = [UInt8](repeating: 0, count: Int(i2d_ECDSA_SIG(parts, nil)))
            return encoded.withUnsafeMutableBufferPointer { buffer in
                var end = buffer.baseAddress
                return i2d_ECDSA_SIG(parts, &end) == Int32(buffer.count)
            } ? encoded : nil
        }

        static func openGCM(
            _ ciphertext: Data, tag: Data, key: Data, nonce: Data, authenticating: Data,
            into plaintext: UnsafeMutableRawBufferPointer
        ) -> Bool {
            precondition(plaintext.count == ciphertext.count)
            guard key.count == 32, nonce.count == 12, tag.count == 16, let context = EVP_CIPHER_CTX_new() else { return false }
            defer { EVP_CIPHER_CTX_free(context) }
            var proof = [UInt8](tag)
            let associated = [UInt8](authenticating)
            var length: Int32 = 0
            let opened =
                EVP_DecryptInit_ex2(context, EVP_aes_256_gcm(), [UInt8](key), [UInt8](nonce), nil) == 1
                && EVP_DecryptUpdate(context, nil, &length, associated, Int32(associated.count)) == 1
                && decrypt(ciphertext, with: context, into: plaintext)
                && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, 16, &proof) == 1
                && EVP_DecryptFinal_ex(context, nil, &length) == 1
            if !opened { OPENSSL_cleanse(plaintext.baseAddress, plaintext.count) }
            return opened
        }

        private static func decrypt(
            _ ciphertext: Data, with context: OpaquePointer, into plaintext: UnsafeMutableRawBufferPointer
        ) -> Bool {
            let step = 1 << 20
            return ciphertext.withUnsafeBytes { input in
                for start in stride(from: 0, to: input.count, by: step) {
                    let count = Int32(min(step, input.count - start))
                    var length: Int32 = 0
                    let from = input.baseAddress?.advanced(by: start).assumingMemoryBound(to: UInt8.self)
                    let to = plaintext.baseAddress?.advanced(by: start).assumingMemoryBound(to: UInt8.self)
                    guard EVP_DecryptUpdate(context, to, &length, from, count) == 1, length == count else { return false }
                }
                return true
            }
        }
    }

    /// A P-256 key pair in memory, for tests and development.
    struct SoftwarePrivateKey: Sendable {
        let publicKey: PublicKey
        private let scalar: Data

        init?(scalar: Data, publicKey: PublicKey) {
            guard scalar.count == 32 else { return nil }
            self.scalar = scalar
            self.publicKey = publicKey
        }

        /// A new key pair.
        init() {
            var point = [UInt8](repeating: 0, count: 65)
            var number = [UInt8](repeating: 0, count: 32)
            guard corelocker_p256_generate(&point, &number) == 1, let key = PublicKey(x963: Data(point)) else {
                preconditionFailure("OpenSSL makes no P-256 key")
            }
            (scalar, publicKey) = (Data(number), key)
        }

        /// HPKE's plaintext; nil when `sealed` does not open.
        func open(_ sealed: Data, info: Data) -> Data? {
            let (sealed, info) = ([UInt8](sealed), [UInt8](info))
            guard sealed.count > 65 + 16,
                let key = corelocker_p256([UInt8](publicKey.x963), 65, [UInt8](scalar), 32)
            else { return nil }
            defer { EVP_PKEY_free(key) }
            var plaintext = [UInt8](repeating: 0, count: sealed.count)
            var size = plaintext.count
            let (encapsulated, ciphertext) = (Array(sealed[..<65]), Array(sealed[65...]))
            guard
                corelocker_hpke_open(
                    key, encapsulated, 65, ciphertext, ciphertext.count, info, info.count, &plaintext, &size) == 1
            else { return nil }
            return Data(plaintext[..<size])
        }
    }

    /// A P-256 signing key of a development identity.
    final class DevelopmentSigningKey: @unchecked Sendable {
        // An EVP_PKEY is not changed by signing.
        private let key: OpaquePointer

        /// From PKCS #8 in PEM; nil when it is none on P-256.
        init?(pem: String) {
            let bytes = [UInt8](pem.utf8)
            guard let memory = BIO_new_mem_buf(bytes, Int32(bytes.count)) else { return nil }
            defer { BIO_free(memory) }
            guard let key = PEM_read_bio_PrivateKey(memory, nil, nil, nil) else { return nil }
            self.key = key
        }

        deinit { EVP_PKEY_free(key) }

        /// The DER-encoded ECDSA signature with SHA-256.
        func sign(_ data: Data) -> Data? {
            guard let context = EVP_MD_CTX_new() else { return nil }
            defer { EVP_MD_CTX_free(context) }
            let input = [UInt8](data)
            var size = 0
            guard EVP_DigestSignInit(context, nil, EVP_sha256(), nil, key) == 1,
                EVP_DigestSign(context, nil, &size, input, input.count) == 1
            else { return nil }
            var signature = [UInt8](repeating: 0, count: size)
            guard EVP_DigestSign(context, &signature, &size, input, input.count) == 1 else { return nil }
            return Data(signature[..<size])
        }
    }
#endif
