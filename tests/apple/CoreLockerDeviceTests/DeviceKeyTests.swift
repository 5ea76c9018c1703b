import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerDevice

/// When the Secure Enclave makes a key, finds it again, and is asked later.
@Suite struct DeviceKeyTests {
    private let calls = FakeKeychain()
    private let enclave = FakeEnclave()
    private var keychain: Keychain { Keychain(app: "com.example.camera", calls: calls) }

    private func key() throws -> SecureEnclaveDeviceKey { try SecureEnclaveDeviceKey(keychain, enclave) }

    /// Makes keys, and finds none now.
    private struct BusyEnclave: EnclaveCalls {
        let isAvailable = true
        private let enclave: FakeEnclave

        init(_ enclave: FakeEnclave) { self.enclave = enclave }

        func make() throws -> EnclaveKey { try enclave.make() }
        func find(_ representation: Data) throws -> EnclaveKey { throw NSError(domain: "CryptoTokenKit", code: -2) }
        func open(encapsulated: Data, ciphertext: Data, info: Data, with representation: Data) throws -> Data { Data() }
    }

    @Test func aKeyIsMadeOnceAndFoundAgain() throws {
        let first = try key()
        #expect(try key().publicKey == first.publicKey)
        #expect(enclave.count == 1)
        #expect(Set(calls.items.value.keys) == ["com.example.camera.corelocker device-key"])
    }

    @Test func aLostKeyIsReplaced() throws {
        let first = try key()
        try keychain.write(Data("of an erased device".utf8), "device-key")
        let second = try key()
        #expect(second.publicKey != first.publicKey)
        #expect(try key().publicKey == second.publicKey)
    }

    /// An Enclave that does not answer now has not lost the key: another one would make the license useless.
    @Test func aBusyEnclaveIsAskedLater() throws {
        let first = try key()
        #expect(outcome { _ = try SecureEnclaveDeviceKey(keychain, BusyEnclave(enclave)) } == "device-busy")
        #expect(try key().publicKey == first.publicKey && enclave.count == 1)
    }

    @Test func whatTheEnclaveCannotDo() throws {
        enclave.failure.value = NSError(domain: "CryptoTokenKit", code: -2)
        #expect(outcome { _ = try key() } == "device-busy", "it makes no key")
        #expect(calls.items.value.isEmpty)
        enclave.available.value = false
        #expect(outcome { _ = try key() } == "device-unsupported")
    }

    @Test func onlyALostKeyIsReplaced() {
        for code in [-3, -6, -8] { #expect(isLostEnclaveKey(NSError(domain: "CryptoTokenKit", code: code))) }
        for code in [-1, -2, -4, -5, -7, -9] { #expect(!isLostEnclaveKey(NSError(domain: "CryptoTokenKit", code: code))) }
        #expect(!isLostEnclaveKey(NSError(domain: "NSOSStatusErrorDomain", code: -3)))
        #expect(!isLostEnclaveKey(CancellationError()))
    }

    /// The Enclave is given encapsulation and ciphertext apart (`hpke_wrap.json`).
    @Test func opensWhatIsSealedToIt() throws {
        let file = try Vectors.file("hpke_wrap.json")
        let own = try deviceKey(file["device_key"])
        let key = try SecureEnclaveDeviceKey(keychain, FakeEnclave(own))
        #expect(key.publicKey == own.publicKey)
        var opened = 0
        for vector in try Vectors.cases(file) {
            let sealed = try #require(Base64URL.decode(try vector.text("wk")), "\(vector.name)")
            let found = outcome {
                expectEqual(try key.open(sealed, info: try vector.hex("info")), try vector.hex("content_key"), vector.name)
                opened += 1
            }
            #expect(found == vector["expect"]?.text, "\(vector.name)")
        }
        #expect(opened >= 6)
    }
}
