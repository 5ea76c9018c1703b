import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerCoreML

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

private let environment = ProcessInfo.processInfo.environment["CORELOCKER_TEST_ENVIRONMENT"].map(URL.init(fileURLWithPath:))

/// The client against the real unlock service; `tests/apple/end_to_end.py` starts both.
@Suite(.serialized, .enabled(if: environment != nil, "tests/apple/end_to_end.py runs these"))
struct EndToEndTests {
    private let folder = environment ?? URL(fileURLWithPath: "/nonexistent")
    private var locked: URL { folder.appendingPathComponent("dist/fashion_mobilenet.safetensors") }

    /// A device: a key, a store, and a clock that tests may turn.
    private struct Device {
        let key = SoftwareDeviceKey()
        let store = MemoryStore()
        let client: UnlockClient
        let clock = Shift()

        init(
            _ folder: URL, configuration name: String = "corelocker.json", sharing other: Device? = nil, attester: (any Attester)? = nil
        ) throws {
            let pem = try String(contentsOf: folder.appendingPathComponent("identity.pem"), encoding: .utf8)
            let identity = try DevelopmentIdentity(pem: pem)
            let clock = clock
            client = UnlockClient(
                configuration: try AppConfiguration(contentsOf: folder.appendingPathComponent(name)),
                deviceKey: other?.key ?? key, attester: attester ?? identity, store: other?.store ?? store,
                clocks: {
                    let now = DeviceClock.systemReading()
                    return ClockReading(wall: now.wall + clock.seconds, ticks: now.ticks, boot: now.boot)
                }, transport: URLSessionTransport(), retries: RetryPolicy(attempts: 2, firstWait: 0.1))
        }
    }

    private final class Shift: @unchecked Sendable {
        private let lock = NSLock()
        private var value: Int64 = 0
        var seconds: Int64 {
            get { lock.withLock { value } }
            set { lock.withLock { value = newValue } }
        }
    }

    private func plan(_ name: String) throws -> String {
        let data = try Data(contentsOf: folder.appendingPathComponent("plan.json"))
        return try #require(try JSONReader.read(data)[name]?.text)
    }

    private func bundle(_ name: String = "dist/demo.clkey") throws -> KeyBundle {
        let configuration = try AppConfiguration(contentsOf: folder.appendingPathComponent("corelocker.json"))
        return try KeyBundle(contentsOf: folder.appendingPathComponent(name), publisher: configuration.publisher)
    }

    /// App Attest of the made-up phone of `forged_app_attest.py`.
    private struct ForgedAppAttest: AppAttestService {
        let control: String
        var isSupported: Bool { true }

        func generateKey() async throws -> String { String(decoding: try await ask("generate"), as: UTF8.self) }

        func attestKey(_ key: String, clientDataHash: Data) async throws -> Data { try await object("attest", clientDataHash) }

        func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data { try await object("assert", clientDataHash) }

        private func object(_ call: String, _ hash: Data) async throws -> Data {
            try #require(Data(base64Encoded: try await ask("\(call)/\(hash.map { String(format: "%02x", $0) }.joined())")))
        }

        private func ask(_ call: String) async throws -> Data {
            var request = URLRequest(url: try #require(URL(string: "\(control)/app-attest/\(call)")))
            request.httpMethod = "POST"
            return try await URLSession.shared.data(for: request).0
        }
    }

    private final class AttestKeys: AppAttestKeyStore, @unchecked Sendable {
        private let lock = NSLock()
        private var kept: AppAttestKey?
        func key() -> AppAttestKey? { lock.withLock { kept } }
        func save(_ key: AppAttestKey) { lock.withLock { kept = key } }
        func removeKey() { lock.withLock { kept = nil } }
    }

    /// Client and verifier agree on every byte that App Attest covers.
    @Test func attestsByAppAttest() async throws {
        let (keys, phone) = (AttestKeys(), ForgedAppAttest(control: try plan("control")))
        // A key that the service does not know, as when the answer to its attestation was lost.
        keys.save(AppAttestKey(id: try await phone.generateKey(), isAttested: true))
        let (device, bundle) = (try Device(folder, attester: AppAttester(service: phone, store: keys)), try bundle())
        let purchase = Purchase.grant(try plan("apple"))
        try await device.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(keys.key()?.isAttested == true)
        try await device.client.renew(bundle)
        try await device.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(try await device.client.license(for: bundle).tier == "full")

        // What was made for another request is refused.
        let relayed = try Device(folder, attester: Relay(other: AppAttester(service: phone, store: keys)))
        #expect(
            await outcome { try await relayed.client.unlock(bundle, tier: "full", purchase: purchase) } == "attestation-refused")
    }

    /// Vouches for another digest than it is asked to.
    private struct Relay: Attester {
        let other: AppAttester

        func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] {
            try await other.evidence(for: Data(digest.reversed()), step: step)
        }
    }

    /// What Core ML is given of a restored package: the original's weights.
    @Test func restoresACoreMLPackage() async throws {
        let (device, bundle) = (try Device(folder), try bundle("coreml/palette.clkey"))
        let locked = try CoreMLPackage(folder.appendingPathComponent("coreml/unified_palette_4bit.mlpackage"))
        let original = try CoreMLPackage(folder.appendingPathComponent("original.mlpackage"))
        try await device.client.unlock(bundle, tier: "full", purchase: .grant(try plan("coreml")))
        #expect(!locked.weights.isEmpty && locked.weights.map(\.path) == original.weights.map(\.path))
        for (file, wanted) in zip(locked.weights, original.weights) {
            let bytes = try Data(contentsOf: wanted.url)
            #expect(try Data(contentsOf: file.url) != bytes)
            #expect(try await device.client.restore(file.url, with: bundle, check: .always).data == bytes)
        }
        let listed = try #require(bundle.artifacts.first).files.map(\.path)
        #expect(listed.contains("Data/com.apple.CoreML/weights/weight.bin"))
        if !listed.contains("Data/com.apple.CoreML/model.mlmodel") {
            #expect(try Data(contentsOf: locked.specification) == Data(contentsOf: original.specification))
        }
    }

    @Test func unlocksAndRestores() async throws {
        let (device, bundle) = (try Device(folder), try bundle())
        let original = try Data(contentsOf: folder.appendingPathComponent("original.safetensors"))
        #expect(await device.client.state(of: bundle) == .locked)
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "not-unlocked")

        try await device.client.unlock(bundle, tier: "full", purchase: .grant(try plan("order")))
        guard case .unlocked("full", _) = await device.client.state(of: bundle) else {
            Issue.record("not unlocked")
            return
        }
        let restored = try await device.client.restore(locked, with: bundle, check: .always)
        #expect(try Data(contentsOf: locked) != original)
        #expect(restored.data == original)
        let plus = try await device.client.restore(locked, with: bundle, tier: "plus")
        #expect(plus.data != original)
        try await device.client.renew(bundle)
        #expect(try await device.client.restore(locked, with: bundle).data == original)

        // The same purchase on a second device.
        let second = try Device(folder)
        let purchase = Purchase.grant(try plan("order"))
        #expect(await outcome { try await second.client.unlock(bundle, tier: "full", purchase: purchase) } == "device-limit")
        #expect(second.store.license(bundle: bundle.id) == nil)

        // Service down: the license that is held still works.
        let offline = try Device(folder, configuration: "unreachable.json", sharing: device)
        #expect(try await offline.client.restore(locked, with: bundle).data == original)
        #expect(await outcome { try await offline.client.renew(bundle) } == "service-unreachable")
        #expect(try await offline.client.restore(locked, with: bundle).data == original)
    }

    @Test func clocksDecide() async throws {
        let (device, bundle) = (try Device(folder), try bundle())
        try await device.client.unlock(bundle, tier: "full", purchase: .grant(try plan("trial")))
        device.clock.seconds = -3 * 86_400
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "license-clock")
        device.clock.seconds = 0
        _ = try await device.client.restore(locked, with: bundle)
        device.clock.seconds = 400 * 86_400
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "license-expired")
        #expect(await device.client.state(of: bundle) == .expired)
    }

    @Test func revocationEndsTheRight() async throws {
        let (device, bundle) = (try Device(folder), try bundle())
        try await device.client.unlock(bundle, tier: "full", purchase: .grant(try plan("revoked")))
        var states = await device.client.states(of: bundle).makeAsyncIterator()
        guard case .unlocked = await states.next() else {
            Issue.record("not unlocked")
            return
        }
        let license = try await device.client.license(for: bundle)
        var revoke = URLRequest(url: try #require(URL(string: "\(try plan("control"))/revoke/\(license.id)")))
        revoke.httpMethod = "POST"
        let (_, answer) = try await URLSession.shared.data(for: revoke)
        #expect((answer as? HTTPURLResponse)?.statusCode == 200)
        let refused = await outcome { try await device.client.renew(bundle) }
        #expect(["license-revoked", "purchase-revoked"].contains(refused))
        #expect(await states.next() == .revoked)
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "not-unlocked")
    }

    @Test func whatDoesNotBelongIsRefused() async throws {
        let (device, bundle) = (try Device(folder), try bundle())
        let other = try Device(folder, configuration: "other-app.json")
        let purchase = Purchase.grant(try plan("order"))
        #expect(await outcome { try await other.client.unlock(bundle, tier: "full", purchase: purchase) } == "app-unknown")
        #expect(
            await outcome { try await device.client.unlock(bundle, tier: "full", purchase: .grant("a.b.c")) }
                == "purchase-format")
        var tampered = try Data(contentsOf: folder.appendingPathComponent("dist/demo.clkey"))
        tampered[40] ^= 1
        #expect(outcome { _ = try KeyBundle(tampered) }.hasPrefix("bundle-"))
        let pinned = outcome {
            _ = try KeyBundle(
                try Data(contentsOf: folder.appendingPathComponent("dist/demo.clkey")), publisher: String(repeating: "A", count: 43))
        }
        #expect(pinned == "bundle-publisher")
    }
}
