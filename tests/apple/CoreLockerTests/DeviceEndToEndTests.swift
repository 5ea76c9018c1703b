import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerDevice

/// App Attest of the made-up phone of `forged_app_attest.py`.
struct ForgedAppAttest: AppAttestService {
    let world: EndToEndWorld
    var isSupported: Bool { true }

    func generateKey() async throws -> String { String(decoding: try await ask("generate"), as: UTF8.self) }

    func attestKey(_ key: String, clientDataHash: Data) async throws -> Data { try await object("attest", key, clientDataHash) }

    func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data { try await object("assert", key, clientDataHash) }

    private func object(_ call: String, _ key: String, _ hash: Data) async throws -> Data {
        let path = [try #require(Data(base64Encoded: key)), hash].map { $0.map { String(format: "%02x", $0) }.joined() }
        return try #require(Data(base64Encoded: try await ask("\(call)/\(path.joined(separator: "/"))")))
    }

    private func ask(_ call: String) async throws -> Data { try await world.ask("app-attest/\(call)") }
}

/// The class `CoreLocker` on a made-up phone, whose App Attest objects are forged for the real verifier, against the real unlock service;
/// `tests/apple/end_to_end.py` starts it.
@Suite(.serialized, .enabled(if: EndToEndWorld.isThere, "tests/apple/end_to_end.py runs these"))
struct DeviceEndToEndTests {
    /// Its keys go away with the app.
    private actor RemovableAppAttest: AppAttestService {
        nonisolated let isSupported = true
        private let phone: ForgedAppAttest
        private var hasKey = false

        init(_ phone: ForgedAppAttest) { self.phone = phone }

        func removeApp() { hasKey = false }

        func generateKey() async throws -> String {
            hasKey = true
            return try await phone.generateKey()
        }

        func attestKey(_ key: String, clientDataHash: Data) async throws -> Data {
            guard hasKey else { throw AppAttestFailure.invalidKey }
            return try await phone.attestKey(key, clientDataHash: clientDataHash)
        }

        func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data {
            guard hasKey else { throw AppAttestFailure.invalidKey }
            return try await phone.generateAssertion(key, clientDataHash: clientDataHash)
        }
    }

    private static let model = "fashion_mobilenet.safetensors"

    private let world: EndToEndWorld
    private let appAttest: RemovableAppAttest
    private let phone: FakePhone
    private let finished = Locked<[String]>([])

    init() throws {
        world = try EndToEndWorld()
        appAttest = RemovableAppAttest(ForgedAppAttest(world: world))
        phone = FakePhone(appAttest: appAttest)
    }

    /// The app as it starts.
    private func start() throws -> CoreLocker { try CoreLocker(folder: world.folder, system: phone.system) }

    private func original() throws -> Data { try world.data("original/dist/\(Self.model)") }

    private func bought(_ id: String, tier: String = "full") async throws -> CoreLocker.Bought<FakeTransaction> {
        let jws = try await world.transaction(tier, id: id)
        return CoreLocker.Bought(
            FakeTransaction(jwsRepresentation: jws, finished: finished), CoreLocker.Right(tier: tier, model: "demo"))
    }

    private func renew(_ locker: CoreLocker) async -> String {
        await outcome { try await locker.client.renew(try locker.resources.bundle(of: "demo")) }
    }

    @Test func aPurchaseUnlocksAndIsFinished() async throws {
        let locker = try start()
        #expect(try await locker.restoreIfUnlocked(Self.model) == nil)
        let purchase = try await bought("device-1")
        try await locker.unlock(purchase)
        #expect(finished.value == [purchase.item.jwsRepresentation])
        #expect(try await locker.restore(Self.model).data == original())
        // The next start of the app finds key and license.
        let next = try start()
        #expect(try await next.restoreIfUnlocked(Self.model)?.data == original())
        #expect(await renew(next) == "ok")
        #expect(phone.enclave.count == 1)
    }

    @Test func theAppIsInstalledAnew() async throws {
        let purchase = try await bought("device-2")
        try await start().unlock(purchase)
        await appAttest.removeApp()
        let locker = try start()
        #expect(try await locker.restore(Self.model).data == original(), "the keychain outlives the app")
        #expect(await renew(locker) == "attestation-lost")
        #expect(try await locker.restore(Self.model).data == original())

        // StoreKit knows what is owned: the renewal unlocks anew by itself, and the next one is asserted again.
        phone.owned.value = [.appStore(try await world.transaction("plus", id: "another")), .appStore(purchase.item.jwsRepresentation)]
        #expect(await renew(locker) == "ok")
        #expect(await renew(locker) == "ok")
        #expect(try await locker.restore(Self.model).data == original())
    }

    /// The place of the purchase belongs to the device key, so a new key needs one of its own.
    @Test func theEnclaveHasLostTheKey() async throws {
        let purchase = try await bought("device-3")
        try await start().unlock(purchase)
        phone.keychain.items.value["\(try world.configuration().app).corelocker device-key"] = Data("of another Enclave".utf8)
        let locker = try start()
        let bundle = try locker.resources.bundle(of: "demo")
        #expect(await locker.client.state(of: bundle) == .refused(.licenseDevice))
        #expect(await renew(locker) == "license-device")
        phone.owned.value = [.appStore(purchase.item.jwsRepresentation)]
        #expect(await renew(locker) == "device-limit")
        phone.owned.value.append(.appStore(try await world.transaction("full", id: "device-3-again")))
        try await locker.renewIfDue()
        #expect(try await locker.restore(Self.model).data == original())
    }

    @Test func purchasesAreRestored() async throws {
        let (locker, plus, full) = (try start(), try await bought("device-4", tier: "plus"), try await bought("device-5"))
        let reported = Locked<[String]>([])
        let count = try await locker.unlock(owned: [plus, full], report: { reported.value.append("\($0)") })
        #expect(count == 1 && reported.value == [])
        #expect(Set(finished.value) == [plus.item.jwsRepresentation, full.item.jwsRepresentation])
        #expect(try await locker.restore(Self.model).data == original())
        // A lower tier that arrives by itself changes nothing.
        await locker.take(plus, owned: { [] }, report: { reported.value.append("\($0)") })
        #expect(reported.value == [])
        #expect(try await locker.client.license(for: try locker.resources.bundle(of: "demo")).tier == "full")
    }

    #if DEBUG
        /// A simulator: no Enclave, no App Attest, and `attestation.pem` among the resources.
        @Test func aSimulatorUsesItsIdentity() async throws {
            let folder = world.file("simulator-\(UUID().uuidString)")
            let files = FileManager.default
            try files.createDirectory(at: folder.appendingPathComponent("Models"), withIntermediateDirectories: true)
            for (from, to) in [
                ("corelocker.json", "corelocker.json"), ("identity.pem", "attestation.pem"), ("dist/demo.clkey", "Models/demo.clkey"),
                ("dist/\(Self.model)", "Models/\(Self.model)"),
            ] { try files.copyItem(at: world.file(from), to: folder.appendingPathComponent(to)) }
            phone.enclave.available.value = false
            let locker = try CoreLocker(folder: folder, system: phone.system)
            try await locker.unlock(with: try await world.purchase("simulator"))
            #expect(try await locker.restore(Self.model).data == original())
            try files.removeItem(at: folder)
            #expect(outcome { _ = try start() } == "device-unsupported", "an app without that identity needs the Enclave")
        }
    #endif
}
