#if canImport(CryptoKit) && canImport(Security)
    import CoreLocker
    import CryptoKit
    import Foundation
    import Security

    /// The Secure Enclave by CryptoKit.
    struct CryptoKitEnclave: EnclaveCalls {
        private typealias Key = SecureEnclave.P256.KeyAgreement.PrivateKey

        struct NoAccessControl: Error {}

        var isAvailable: Bool { SecureEnclave.isAvailable }

        func make() throws -> EnclaveKey {
            let access = SecAccessControlCreateWithFlags(
                nil, kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly, .privateKeyUsage, nil)
            guard let access else { throw NoAccessControl() }
            let key = try Key(accessControl: access)
            return try EnclaveKey(representation: key.dataRepresentation, key.publicKey)
        }

        func find(_ representation: Data) throws -> EnclaveKey {
            try EnclaveKey(representation: representation, try Key(dataRepresentation: representation).publicKey)
        }

        func open(encapsulated: Data, ciphertext: Data, info: Data, with representation: Data) throws -> Data {
            try openHPKE(encapsulated, ciphertext, info, try Key(dataRepresentation: representation))
        }
    }

    #if DEBUG
        /// Keys in software for simulators, in the keychain as they are. Debug builds alone have them; a service in production refuses what
        /// vouches for one.
        struct SoftwareEnclave: EnclaveCalls {
            var isAvailable: Bool { true }

            func make() throws -> EnclaveKey {
                let key = P256.KeyAgreement.PrivateKey()
                return try EnclaveKey(representation: key.rawRepresentation, key.publicKey)
            }

            func find(_ representation: Data) throws -> EnclaveKey {
                try EnclaveKey(
                    representation: representation, try P256.KeyAgreement.PrivateKey(rawRepresentation: representation).publicKey)
            }

            func open(encapsulated: Data, ciphertext: Data, info: Data, with representation: Data) throws -> Data {
                try openHPKE(encapsulated, ciphertext, info, try P256.KeyAgreement.PrivateKey(rawRepresentation: representation))
            }
        }
    #endif

    private func openHPKE(
        _ encapsulated: Data, _ ciphertext: Data, _ info: Data, _ key: some HPKEDiffieHellmanPrivateKey
    ) throws -> Data {
        var recipient = try HPKE.Recipient(
            privateKey: key, ciphersuite: .P256_SHA256_AES_GCM_256, info: info, encapsulatedKey: encapsulated)
        return try recipient.open(ciphertext)
    }

    extension EnclaveKey {
        fileprivate init(representation: Data, _ key: P256.KeyAgreement.PublicKey) throws {
            guard let publicKey = PublicKey(x963: key.x963Representation) else {
                throw CoreLockerError(.deviceKey, "The device key is not on P-256")
            }
            self.init(representation: representation, publicKey: publicKey)
        }
    }
#endif
