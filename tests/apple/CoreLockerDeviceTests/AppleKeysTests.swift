#if canImport(CryptoKit) && canImport(Security) && canImport(DeviceCheck)
    import CryptoKit
    import DeviceCheck
    import Foundation
    import Testing

    @testable import CoreLocker
    @testable import CoreLockerDevice

    /// Apple's own calls, in a simulator or on a Mac.
    @Suite struct AppleKeysTests {
        private func opens(_ enclave: some EnclaveCalls) throws {
            let made = try enclave.make()
            let key = try enclave.find(made.representation)
            #expect(key.publicKey == made.publicKey)
            let recipient = try P256.KeyAgreement.PublicKey(x963Representation: key.publicKey.x963)
            var sender = try HPKE.Sender(recipientKey: recipient, ciphersuite: .P256_SHA256_AES_GCM_256, info: Data("info".utf8))
            let ciphertext = try sender.seal(Data("a secret".utf8))
            let opened = try enclave.open(
                encapsulated: sender.encapsulatedKey, ciphertext: ciphertext, info: Data("info".utf8), with: made.representation)
            #expect(opened == Data("a secret".utf8))
            #expect(throws: (any Error).self) {
                try enclave.open(
                    encapsulated: sender.encapsulatedKey, ciphertext: ciphertext, info: Data("other".utf8), with: made.representation)
            }
        }

        /// Hosts without an Enclave, as virtual machines, have none to test.
        @Test func theEnclaveOpensWhatIsSealedToIt() throws {
            let enclave = CryptoKitEnclave()
            if enclave.isAvailable { try opens(enclave) }
        }

        @Test func theDevelopmentKeyOpensWhatIsSealedToIt() throws { try opens(SoftwareEnclave()) }

        /// What is no key of this Enclave is lost, not busy.
        @Test func anEnclavesErrorForWhatIsNoKey() throws {
            let enclave = CryptoKitEnclave()
            guard enclave.isAvailable else { return }
            #expect(throws: (any Error).self) { try enclave.find(Data("of an erased device".utf8)) }
        }

        @Test func appAttestsErrorsAreApples() {
            let meanings: [(DCError.Code, AppAttestFailure)] = [
                (.unknownSystemFailure, .other), (.featureUnsupported, .unsupported), (.invalidInput, .invalidKey),
                (.invalidKey, .invalidKey), (.serverUnavailable, .unavailable),
            ]
            for (code, meaning) in meanings { #expect(AppAttestFailure(DCError(code)) == meaning) }
        }
    }
#endif
