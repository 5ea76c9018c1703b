import Foundation

@testable import CoreLocker
@testable import CoreLockerDevice

/// The system calls of a made-up phone.
final class FakePhone: Sendable {
    let keychain = FakeKeychain()
    let enclave: FakeEnclave
    let appAttest: any AppAttestService
    let owned = Locked<[Purchase]>([])

    /// - Parameter key: the key that its Enclave makes; nil for a new one each time.
    init(key: SoftwareDeviceKey? = nil, appAttest: any AppAttestService = FakeAppAttest()) {
        (enclave, self.appAttest) = (FakeEnclave(key), appAttest)
    }

    var system: DeviceSystem {
        DeviceSystem(
            keychain: keychain, enclave: enclave, softwareKeys: FakeEnclave(), appAttest: appAttest, owned: { [owned] in owned.value })
    }
}

/// The keychain's calls, with what Apple's say of each case. Items are named "service account".
final class FakeKeychain: KeychainCalls {
    let items = Locked<[String: Data]>([:])
    /// What every call answers; nil for what is the case.
    let failure = Locked<Int32?>(nil)
    /// Bytes that another process adds before the next `add`.
    let racing = Locked<Data?>(nil)

    func copy(_ service: String, _ account: String) -> (status: Int32, data: Data?) {
        if let failure = failure.value { return (failure, nil) }
        guard let data = items.value["\(service) \(account)"] else { return (KeychainStatus.itemNotFound, nil) }
        return (KeychainStatus.success, data)
    }

    func add(_ data: Data, _ service: String, _ account: String) -> Int32 {
        if let failure = failure.value { return failure }
        if let other = racing.value { items.value["\(service) \(account)"] = other }
        guard items.value["\(service) \(account)"] == nil else { return KeychainStatus.duplicateItem }
        items.value["\(service) \(account)"] = data
        return KeychainStatus.success
    }

    func update(_ data: Data, _ service: String, _ account: String) -> Int32 {
        if let failure = failure.value { return failure }
        guard items.value["\(service) \(account)"] != nil else { return KeychainStatus.itemNotFound }
        items.value["\(service) \(account)"] = data
        return KeychainStatus.success
    }

    func delete(_ service: String, _ account: String) -> Int32 {
        if let failure = failure.value { return failure }
        return items.value.removeValue(forKey: "\(service) \(account)") == nil ? KeychainStatus.itemNotFound : KeychainStatus.success
    }
}

/// A Secure Enclave whose keys are in software; a representation is a number.
final class FakeEnclave: EnclaveCalls {
    let available = Locked(true)
    /// What making and finding keys throws.
    let failure = Locked<NSError?>(nil)
    private let keys = Locked<[Data: SoftwareDeviceKey]>([:])
    private let own: SoftwareDeviceKey?

    init(_ own: SoftwareDeviceKey? = nil) { self.own = own }

    var isAvailable: Bool { available.value }
    var count: Int { keys.value.count }

    func make() throws -> EnclaveKey {
        if let failure = failure.value { throw failure }
        let (representation, key) = (Data("key \(count)".utf8), own ?? SoftwareDeviceKey())
        keys.value[representation] = key
        return EnclaveKey(representation: representation, publicKey: key.publicKey)
    }

    func find(_ representation: Data) throws -> EnclaveKey {
        if let failure = failure.value { throw failure }
        return EnclaveKey(representation: representation, publicKey: try key(representation).publicKey)
    }

    func open(encapsulated: Data, ciphertext: Data, info: Data, with representation: Data) throws -> Data {
        try key(representation).open(encapsulated + ciphertext, info: info)
    }

    private func key(_ representation: Data) throws -> SoftwareDeviceKey {
        guard let key = keys.value[representation] else { throw NSError(domain: "CryptoTokenKit", code: -6) }
        return key
    }
}

/// App Attest of a made-up device. What it gives names the call, the key and the digest.
actor FakeAppAttest: AppAttestService {
    nonisolated let isSupported: Bool
    private(set) var calls: [String] = []
    private var keys = 0
    private var failures: [String: AppAttestFailure] = [:]
    /// Keys that an older install of the app has made.
    private var lost: Set<String> = []

    init(isSupported: Bool = true) { self.isSupported = isSupported }

    func fail(_ call: String, _ failure: AppAttestFailure?) { failures[call] = failure }

    /// Removing the app removes its keys.
    func reinstall() { lost = Set((0...keys).map(id)) }

    func generateKey() async throws -> String {
        try note("generate", nil)
        keys += 1
        return id(keys)
    }

    func attestKey(_ key: String, clientDataHash: Data) async throws -> Data {
        try await Task.sleep(nanoseconds: 1_000_000)
        try note("attest", key)
        return Data("attest \(key) ".utf8) + clientDataHash
    }

    func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data {
        try note("assert", key)
        return Data("assert \(key) ".utf8) + clientDataHash
    }

    private func id(_ number: Int) -> String { Data(repeating: UInt8(number), count: 32).base64EncodedString() }

    private func note(_ call: String, _ key: String?) throws {
        calls.append(call)
        if let failure = failures[call] { throw failure }
        if let key, lost.contains(key) { throw AppAttestFailure.invalidKey }
    }
}

/// A transaction of a made-up store.
struct FakeTransaction: StoreTransaction {
    let jwsRepresentation: String
    var isVerified = true
    var isRevoked = false
    let finished: Locked<[String]>

    func finish() async { finished.value.append(jwsRepresentation) }
}
