import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerDevice

#if canImport(Security)
    import Security
#endif

/// What is kept in the keychain, and what the keychain's statuses mean.
@Suite struct KeychainTests {
    private let calls = FakeKeychain()
    private var keychain: Keychain { Keychain(app: "com.example.camera", calls: calls) }

    @Test func keepsReplacesAndRemoves() throws {
        #expect(try keychain.read("a") == nil)
        try keychain.write(Data("1".utf8), "a")
        try keychain.write(Data("2".utf8), "a")
        #expect(try keychain.read("a") == Data("2".utf8))
        #expect(Set(calls.items.value.keys) == ["com.example.camera.corelocker a"])
        try keychain.remove("a")
        try keychain.remove("a")
        #expect(try keychain.read("a") == nil)
    }

    /// An extension of the app writes the same item at the same time.
    @Test func theLastOfTwoWritersWins() throws {
        calls.racing.value = Data("theirs".utf8)
        try keychain.write(Data("ours".utf8), "a")
        #expect(try keychain.read("a") == Data("ours".utf8))
    }

    /// Before the first unlock of the device (`errSecInteractionNotAllowed`) nothing is taken for missing.
    @Test func whatCannotBeReadIsNotMissing() {
        calls.failure.value = -25308
        #expect(outcome { _ = try keychain.read("a") } == "file-access")
        #expect(outcome { try keychain.write(Data(), "a") } == "file-access")
        #expect(outcome { try keychain.remove("a") } == "file-access")
        #expect(outcome { _ = try SecureEnclaveDeviceKey(keychain, FakeEnclave()) } == "file-access")
    }

    @Test func licensesAndTheMark() throws {
        let store = KeychainLicenseStore(keychain)
        let (first, second) = (UUID(), UUID())
        #expect(try store.license(bundle: first) == nil && store.mark() == nil)
        try store.save("a.b.c", bundle: first)
        try store.save("d.e.f", bundle: second)
        #expect(try store.license(bundle: first) == "a.b.c")
        try store.removeLicense(bundle: first)
        #expect(try store.license(bundle: first) == nil && store.license(bundle: second) == "d.e.f")
        let mark = ClockMark(time: 1_800_000_000, ticks: 3_600, boot: "5f0c")
        try store.save(mark)
        #expect(try store.mark() == mark)
        try keychain.write(Data("{}".utf8), "clock")
        #expect(outcome { _ = try store.mark() } == "license-clock")
        try store.removeMark()
        #expect(try store.mark() == nil)
    }

    @Test func theAppAttestKey() throws {
        let store = KeychainAppAttestKeyStore(keychain)
        #expect(try store.key() == nil)
        for key in [AppAttestKey(id: "a b", isAttested: false), AppAttestKey(id: "a b", isAttested: true)] {
            try store.save(key)
            #expect(try store.key() == key)
        }
        try keychain.write(Data("another record".utf8), "app-attest-key")
        #expect(try store.key() == nil, "what is damaged is made anew")
        try store.removeKey()
        #expect(try keychain.read("app-attest-key") == nil)
    }

    /// An update of the app finds what earlier versions have kept.
    @Test func namesAndRecordsStay() throws {
        let bundle = try #require(UUID(uuidString: "4B5D2F0E-6C7A-4D1B-9E3F-0A1B2C3D4E5F"))
        try KeychainLicenseStore(keychain).save("a.b.c", bundle: bundle)
        #expect(try keychain.read("license-4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f") == Data("a.b.c".utf8))
        for (isAttested, record) in [(false, "pending a b"), (true, "attested a b")] {
            try KeychainAppAttestKeyStore(keychain).save(AppAttestKey(id: "a b", isAttested: isAttested))
            #expect(try keychain.read("app-attest-key") == Data(record.utf8))
        }
    }

    #if canImport(Security)
        @Test func statusesAreApples() {
            #expect(KeychainStatus.success == errSecSuccess)
            #expect(KeychainStatus.itemNotFound == errSecItemNotFound)
            #expect(KeychainStatus.duplicateItem == errSecDuplicateItem)
        }

        /// The keychain itself, where the test's host may use it.
        @Test func theRealOne() throws {
            let (service, account) = ("org.corelocker.tests", UUID().uuidString)
            let real = SecItemCalls()
            let status = real.add(Data("1".utf8), service, account)
            // Hosts without entitlements, as `swift test` on a Mac, have no such keychain (errSecMissingEntitlement).
            if status == -34018 { return }
            defer { _ = real.delete(service, account) }
            #expect(status == errSecSuccess)
            #expect(real.add(Data("2".utf8), service, account) == errSecDuplicateItem)
            #expect(real.update(Data("2".utf8), service, account) == errSecSuccess)
            #expect(real.copy(service, account).data == Data("2".utf8))
            // A search finds an item by the class that it has.
            for (accessible, expected) in [
                (kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly, errSecSuccess), (kSecAttrAccessibleWhenUnlocked, errSecItemNotFound),
            ] {
                let query: [CFString: Any] = [
                    kSecClass: kSecClassGenericPassword, kSecAttrService: service, kSecAttrAccount: account,
                    kSecAttrAccessible: accessible, kSecUseDataProtectionKeychain: true,
                ]
                #expect(SecItemCopyMatching(query as CFDictionary, nil) == expected)
            }
            #expect(real.delete(service, account) == errSecSuccess)
            #expect(real.copy(service, account).status == errSecItemNotFound)
        }
    #endif
}
