import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerCoreML

/// The client against the real unlock service; `tests/apple/end_to_end.py` starts both.
@Suite(.serialized, .enabled(if: EndToEndWorld.isThere, "tests/apple/end_to_end.py runs these"))
struct EndToEndTests {
    private typealias Device = EndToEndWorld.Device

    private let world: EndToEndWorld

    init() throws { world = try EndToEndWorld() }

    private var locked: URL { world.file("dist/fashion_mobilenet.safetensors") }
    private func original() throws -> Data { try world.data("original/dist/fashion_mobilenet.safetensors") }

    private final class AttestKeys: AppAttestKeyStore, @unchecked Sendable {
        private let lock = NSLock()
        private var kept: AppAttestKey?
        func key() -> AppAttestKey? { lock.withLock { kept } }
        func save(_ key: AppAttestKey) { lock.withLock { kept = key } }
        func removeKey() { lock.withLock { kept = nil } }
    }

    /// Client and verifier agree on every byte that App Attest covers.
    @Test func attestsByAppAttest() async throws {
        let (keys, phone) = (AttestKeys(), ForgedAppAttest(world: world))
        // A key that the service does not know, as when the answer to its attestation was lost.
        keys.save(AppAttestKey(id: try await phone.generateKey(), isAttested: true))
        let (device, bundle) = (try Device(world, attester: AppAttester(service: phone, store: keys)), try world.bundle())
        let purchase = try await world.purchase("apple")
        try await device.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(keys.key()?.isAttested == true)
        try await device.client.renew(bundle)
        try await device.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(try await device.client.license(for: bundle).tier == "full")

        // The app was installed anew: the license is there, the key is not, and an unlock attests again.
        keys.removeKey()
        #expect(await outcome { try await device.client.renew(bundle) } == "attestation-lost")
        #expect(try await device.client.license(for: bundle).tier == "full")
        try await device.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(keys.key()?.isAttested == true)

        // What was made for another request is refused.
        let relayed = try Device(world, attester: Relay(other: AppAttester(service: phone, store: keys)))
        #expect(
            await outcome { try await relayed.client.unlock(bundle, tier: "full", purchase: purchase) } == "attestation-refused")
    }

    /// What real devices gave, as `recorded_app_attest.py` hands it over, in the words of the unlock API.
    @Test func encodesWhatRealDevicesGave() async throws {
        guard case .array(let devices) = try JSONReader.read(try world.data("recorded.json")) else {
            Issue.record("no list")
            return
        }
        var written: [JSON.Name: JSON] = [:]
        for (number, device) in devices.enumerated() {
            let phone = RecordedAppAttest(
                key: try #require(device["key"]?.text), attested: Self.parts(device["attested"]), asserted: Self.parts(device["asserted"]))
            let attester = AppAttester(service: phone, store: AttestKeys())
            var evidence: [JSON.Name: JSON] = [:]
            evidence["attested"] = .object(texts: try await attester.evidence(for: phone.attested[1], step: .unlock))
            if !phone.asserted.isEmpty {
                evidence["asserted"] = .object(texts: try await attester.evidence(for: phone.asserted[1], step: .renewal))
            }
            written[JSON.Name("\(number)")] = .object(evidence)
        }
        try CanonicalJSON.encode(.object(written)).write(to: world.file("results/evidence.json"))
    }

    private static func parts(_ value: JSON?) -> [Data] { (value?.array ?? []).compactMap { $0.text.flatMap { Data(base64Encoded: $0) } } }

    /// Each part is the object and the clientDataHash that it was made for.
    private struct RecordedAppAttest: AppAttestService {
        let key: String
        let attested, asserted: [Data]
        var isSupported: Bool { true }

        func generateKey() async throws -> String { key }

        func attestKey(_ key: String, clientDataHash: Data) async throws -> Data {
            try #require(key == self.key && clientDataHash == attested[1])
            return attested[0]
        }

        func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data {
            try #require(key == self.key && clientDataHash == asserted[1])
            return asserted[0]
        }
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
        let (device, bundle) = (try Device(world), try world.bundle("coreml/palette.clkey"))
        let locked = try CoreMLPackage(world.file("coreml/unified_palette_4bit.mlpackage"))
        let original = try CoreMLPackage(world.file("original/coreml/unified_palette_4bit.mlpackage"))
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("coreml"))
        #expect(!locked.weights.isEmpty && locked.weights.map(\.path) == original.weights.map(\.path))
        for (file, wanted) in zip(locked.weights, original.weights) {
            let bytes = try Data(contentsOf: wanted.url)
            #expect(try Data(contentsOf: file.url) != bytes)
            #expect(try await device.client.restore(file.url, with: bundle, check: .always).data == bytes)
        }
        let listed = try #require(bundle.artifacts.first { $0.name.hasSuffix(".mlpackage") }).files.map(\.path)
        #expect(listed.contains("Data/com.apple.CoreML/weights/weight.bin"))
        if !listed.contains("Data/com.apple.CoreML/model.mlmodel") {
            #expect(try Data(contentsOf: locked.specification) == Data(contentsOf: original.specification))
        }
    }

    /// A compiled model, on the way that leaves restored bytes in storage for a moment.
    @Test func restoresACompiledModelInACopy() async throws {
        let (device, bundle) = (try Device(world), try world.bundle("coreml/palette.clkey"))
        let name = "unified_palette_4bit.mlmodelc"
        let (locked, original) = (world.file("coreml/\(name)"), world.file("original/coreml/\(name)"))
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("compiled"))
        let copy = try ExposedCopy(of: locked)
        let artifact = try #require(bundle.artifacts.first { $0.name == name })
        for file in artifact.files {
            let restored = try await device.client.restore(locked.appendingPathComponent(file.path), with: bundle)
            try copy.replace(file.path, by: restored)
        }
        let paths = try FileManager.default.subpathsOfDirectory(atPath: original.path).sorted()
        #expect(try FileManager.default.subpathsOfDirectory(atPath: copy.url.path).sorted() == paths)
        for path in paths {
            let contents = [original, copy.url].map { FileManager.default.contents(atPath: $0.appendingPathComponent(path).path) }
            #expect(contents[0] == contents[1], "\(path)")
        }
        copy.remove()
        #expect(!FileManager.default.fileExists(atPath: copy.url.deletingLastPathComponent().path))
    }

    @Test func unlocksAndRestores() async throws {
        let (device, bundle) = (try Device(world), try world.bundle())
        let original = try original()
        #expect(await device.client.state(of: bundle) == .locked)
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "not-unlocked")

        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("order"))
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

        // Service down: the license that is held still works.
        let offline = try Device(world, configuration: "unreachable", key: device.key, store: device.store)
        #expect(try await offline.client.restore(locked, with: bundle).data == original)
        #expect(await outcome { try await offline.client.renew(bundle) } == "service-unreachable")
        #expect(try await offline.client.restore(locked, with: bundle).data == original)
    }
}
