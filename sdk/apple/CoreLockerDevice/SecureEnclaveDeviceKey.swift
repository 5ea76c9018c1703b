#if canImport(CryptoKit) && canImport(Security)
    import CoreLocker
    import CryptoKit
    import Foundation
    import Security

    /// The device key in the Secure Enclave. The keychain keeps what the Enclave needs to find it again, which is of no use on another device.
    ///
    /// ```swift
    /// let key = try SecureEnclaveDeviceKey(service: "com.example.camera")
    /// ```
    public struct SecureEnclaveDeviceKey: DeviceKey {
        private static let account = "device-key"

        public let publicKey: PublicKey
        private let representation: Data

        /// The key that the keychain knows, or a new one: at first, and where the Enclave no longer opens the old one.
        ///
        /// - Throws: ``CoreLockerError``: `deviceKey` without a Secure Enclave or when it does not open the key now, `fileAccess` when the keychain cannot be read, for one before the
        ///   first unlock of the device.
        public init(service: String) throws {
            guard SecureEnclave.isAvailable else { throw CoreLockerError(.deviceKey, "This device has no Secure Enclave") }
            let keychain = Keychain(service: "\(service).corelocker")
            if let kept = try keychain.read(Self.account), let key = try Self.open(kept) {
                (representation, publicKey) = (kept, try PublicKey(of: key.publicKey))
                return
            }
            let key = try Self.make()
            (representation, publicKey) = (key.dataRepresentation, try PublicKey(of: key.publicKey))
            try keychain.write(representation, Self.account)
        }

        /// nil when the Enclave has lost the key. Throws `deviceKey` when it does not answer now: a new key would make the license useless.
        private static func open(_ kept: Data) throws -> SecureEnclave.P256.KeyAgreement.PrivateKey? {
            do {
                return try SecureEnclave.P256.KeyAgreement.PrivateKey(dataRepresentation: kept)
            } catch  where isLostEnclaveKey(error) {
                return nil
            } catch {
                let cause = error as NSError
                throw CoreLockerError(
                    .deviceKey, "The Secure Enclave does not open the device key (\(cause.domain) \(cause.code)); try again later")
            }
        }

        private static func make() throws -> SecureEnclave.P256.KeyAgreement.PrivateKey {
            let access = SecAccessControlCreateWithFlags(
                nil, kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly, .privateKeyUsage, nil)
            guard let access, let key = try? SecureEnclave.P256.KeyAgreement.PrivateKey(accessControl: access) else {
                throw CoreLockerError(.deviceKey, "The Secure Enclave makes no key")
            }
            return key
        }

        public func open(_ sealed: Data, info: Data) throws -> Data {
            guard let key = try? SecureEnclave.P256.KeyAgreement.PrivateKey(dataRepresentation: representation) else {
                throw CoreLockerError(.licenseWrap, "The Secure Enclave does not open its key")
            }
            return try openHPKE(sealed, info: info, key: key)
        }
    }

    #if DEBUG
        /// A device key for simulators without a Secure Enclave, in the keychain as it is. Debug builds alone have it; a service in production
        /// refuses what vouches for it.
        struct DevelopmentDeviceKey: DeviceKey {
            private static let account = "development-device-key"

            let publicKey: PublicKey
            private let scalar: Data

            init(service: String) throws {
                let keychain = Keychain(service: "\(service).corelocker")
                let kept = try keychain.read(Self.account).flatMap { try? P256.KeyAgreement.PrivateKey(rawRepresentation: $0) }
                let key = kept ?? P256.KeyAgreement.PrivateKey()
                (scalar, publicKey) = (key.rawRepresentation, try PublicKey(of: key.publicKey))
                if kept == nil { try keychain.write(scalar, Self.account) }
            }

            func open(_ sealed: Data, info: Data) throws -> Data {
                guard let key = try? P256.KeyAgreement.PrivateKey(rawRepresentation: scalar) else {
                    throw CoreLockerError(.licenseWrap, "The development key is damaged")
                }
                return try openHPKE(sealed, info: info, key: key)
            }
        }
    #endif

    /// Opens enc || ciphertext (RFC 9180, base mode). Throws `licenseWrap`.
    private func openHPKE(_ sealed: Data, info: Data, key: some HPKEDiffieHellmanPrivateKey) throws -> Data {
        let refusal = CoreLockerError(.licenseWrap, "The wrapped content key does not open with this device key")
        let pointSize = 65
        guard sealed.count > pointSize else { throw refusal }
        do {
            var recipient = try HPKE.Recipient(
                privateKey: key, ciphersuite: .P256_SHA256_AES_GCM_256, info: info, encapsulatedKey: sealed.prefix(pointSize))
            return try recipient.open(sealed.dropFirst(pointSize))
        } catch {
            throw refusal
        }
    }

    extension PublicKey {
        fileprivate init(of key: P256.KeyAgreement.PublicKey) throws {
            guard let key = PublicKey(x963: key.x963Representation) else {
                throw CoreLockerError(.deviceKey, "The device key is not on P-256")
            }
            self = key
        }
    }
#endif
