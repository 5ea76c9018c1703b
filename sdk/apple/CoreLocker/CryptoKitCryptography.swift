#if canImport(CryptoKit)
    import CryptoKit
    import Foundation

    typealias Cryptography = CryptoKitCryptography

    /// The primitives by CryptoKit.
    enum CryptoKitCryptography: CryptographyProvider {
        static func sha256(_ data: Data) -> Data { Data(SHA256.hash(data: data)) }

        static func sha256(of bytes: UnsafeRawBufferPointer) -> Data {
            var hash = SHA256()
            hash.update(bufferPointer: bytes)
            return Data(hash.finalize())
        }

        static func hmac(_ data: Data, key: Data) -> Data {
            Data(HMAC<SHA256>.authenticationCode(for: data, using: SymmetricKey(data: key)))
        }

        static func hkdf(_ key: Data, salt: Data, info: Data, count: Int) -> Data {
            let derived = HKDF<SHA256>.deriveKey(
                inputKeyMaterial: SymmetricKey(data: key), salt: salt, info: info, outputByteCount: count)
            return derived.withUnsafeBytes { Data($0) }
        }

        static func isPoint(_ x963: Data) -> Bool {
            (try? P256.KeyAgreement.PublicKey(x963Representation: x963)) != nil
        }

        static func verify(_ signature: Data, of data: Data, key: PublicKey) -> Bool {
            guard let key = try? P256.Signing.PublicKey(x963Representation: key.x963),
                let proof = try? P256.Signing.ECDSASignature(rawRepresentation: signature)
            else { return false }
            return key.isValidSignature(proof, for: data)
        }

        static func openGCM(
            _ ciphertext: Data, tag: Data, key: Data, nonce: Data, authenticating: Data,
            into plaintext: UnsafeMutableRawBufferPointer
        ) -> Bool {
            precondition(plaintext.count == ciphertext.count)
            guard let nonce = try? AES.GCM.Nonce(data: nonce),
                let box = try? AES.GCM.SealedBox(nonce: nonce, ciphertext: ciphertext, tag: tag),
                var opened = try? AES.GCM.open(box, using: SymmetricKey(data: key), authenticating: authenticating)
            else { return false }
            opened.copyBytes(to: plaintext)
            opened.resetBytes(in: opened.indices)
            return true
        }
    }

    /// A P-256 key pair in memory, for tests and development.
    struct SoftwarePrivateKey: Sendable {
        let publicKey: PublicKey
        private let key: P256.KeyAgreement.PrivateKey

        init?(scalar: Data, publicKey: PublicKey) {
            guard let key = try? P256.KeyAgreement.PrivateKey(rawRepresentation: scalar) else { return nil }
            self.key = key
            self.publicKey = publicKey
        }

        /// A new key pair.
        init() {
            key = P256.KeyAgreement.PrivateKey()
            guard let point = PublicKey(x963: key.publicKey.x963Representation) else {
                preconditionFailure("CryptoKit makes no P-256 key")
            }
            publicKey = point
        }

        /// HPKE's plaintext; nil when `sealed` does not open.
        func open(_ sealed: Data, info: Data) -> Data? {
            guard sealed.count > 65 + 16,
                var recipient = try? HPKE.Recipient(
                    privateKey: key, ciphersuite: .P256_SHA256_AES_GCM_256, info: info,
                    encapsulatedKey: sealed.prefix(65))
            else { return nil }
            return try? recipient.open(sealed.dropFirst(65))
        }
    }

    /// A P-256 signing key of a development identity.
    struct DevelopmentSigningKey: Sendable {
        private let key: P256.Signing.PrivateKey

        /// From PKCS #8 in PEM; nil when it is none on P-256.
        init?(pem: String) {
            guard let key = try? P256.Signing.PrivateKey(pemRepresentation: pem) else { return nil }
            self.key = key
        }

        /// The DER-encoded ECDSA signature with SHA-256.
        func sign(_ data: Data) -> Data? { try? key.signature(for: data).derRepresentation }
    }
#endif
