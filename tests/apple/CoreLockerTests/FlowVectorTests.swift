import Foundation
import Testing

@testable import CoreLocker

/// Whole exchanges with an unlock service, request by request (`tests/vectors/flow.json`).
@Suite struct FlowVectorTests {
    @Test func flows() async throws {
        let file = try Vectors.file("flow.json")
        for vector in try Vectors.cases(file) { try await run(vector, file) }
    }

    private func run(_ vector: JSON, _ file: JSON) async throws {
        let about = try #require(file["bundle"])
        let configuration = try configuration()
        let bundle = BundleIdentity(
            id: try #require(UUID(uuidString: try about.text("id"))), modelVersion: try about.number("model_version"),
            publisher: configuration.publisher, tiers: try #require(about["tiers"]?.array).compactMap(\.text))
        let now = try file.number("now")
        let store = MemoryStore(license: vector["held"]?.text, bundle: bundle.id)
        let service = ScriptedService(try #require(vector["steps"]?.array))
        let waits = Waits()
        let client = UnlockClient(
            configuration: configuration, deviceKey: try deviceKey(file["device_key"]), attester: service, store: store,
            clocks: { ClockReading(wall: now, ticks: 1, boot: "boot") }, transport: service,
            retries: RetryPolicy(attempts: 4, sleep: { waits.add($0) }))
        var retryAt: Date?
        let found = await outcome {
            do {
                switch try vector.text("operation") {
                case "unlock":
                    let members = try #require(vector["purchase"]?.object).compactMapValues(\.text)
                    let purchase = Dictionary(uniqueKeysWithValues: members.map { ($0.description, $1) })
                    let token = try #require(purchase["token"] ?? purchase["transaction"])
                    try await client.unlock(
                        bundle, tier: try vector.text("tier"), purchase: Purchase(members: purchase, token: token))
                case "renew": try await client.renew(bundle, byDeviceKey: false)
                default: try await client.renew(bundle, byDeviceKey: true)
                }
            } catch let error as CoreLockerError {
                retryAt = error.retryAt
                throw error
            }
        }
        try expectEqual(found, vector.text("expect"), vector.name)
        #expect(service.problems == [], "\(vector.name)")
        #expect(service.isDone, "\(vector.name)")
        #expect(retryAt.map { Int64($0.timeIntervalSince1970) } == vector["retry_at"]?.integer, "\(vector.name)")
        let held = try store.license(bundle: bundle.id).map { try License($0, keys: configuration.licenseKeys).id }
        #expect(held == vector["holds"]?.text, "\(vector.name)")
        try check(waits.all, vector)
    }

    private func check(_ waits: [Double], _ vector: JSON) throws {
        let ranges = try #require(vector["waits"]?.array)
        #expect(waits.count == ranges.count, "\(vector.name)")
        for (wait, range) in zip(waits, ranges) {
            let bounds = try #require(range.array).compactMap(\.double)
            #expect((bounds[0]...bounds[1]).contains(wait), "\(vector.name)")
        }
    }

    private func configuration() throws -> AppConfiguration {
        // The vectors hold the configuration as an object; the reader takes a file.
        let all = try JSONSerialization.jsonObject(
            with: try Data(contentsOf: Vectors.folder.appendingPathComponent("flow.json")))
        let config = try #require((all as? [String: Any])?["config"])
        return try AppConfiguration(try JSONSerialization.data(withJSONObject: config))
    }
}

private final class Waits: @unchecked Sendable {
    private let lock = NSLock()
    private var waits: [Double] = []
    var all: [Double] { lock.withLock { waits } }
    func add(_ wait: Double) { lock.withLock { waits.append(wait) } }
}

/// Plays the steps of a vector: answers what it says, and notes every request that differs.
private final class ScriptedService: Transport, Attester, @unchecked Sendable {
    private let lock = NSLock()
    private var steps: [JSON]
    private var notes: [String] = []

    init(_ steps: [JSON]) { self.steps = steps }

    var problems: [String] { lock.withLock { notes } }
    var isDone: Bool { lock.withLock { steps.isEmpty } }

    func post(_ url: URL, _ body: Data) async throws -> ServiceAnswer {
        try lock.withLock {
            guard !steps.isEmpty else { throw CoreLockerError(.argument, "one request too many") }
            let step = steps.removeFirst()
            if url.path != step["path"]?.text { notes.append("path \(url.path)") }
            var sent = try JSONReader.read(body).object ?? [:]
            let attestation = sent.removeValue(forKey: "attestation")
            if sent != step["body"]?.object { notes.append("body \(sent)") }
            if let proof = step["proof"]?.text, attestation?["proof"]?.text != proof { notes.append("another proof") }
            guard let answer = step["answer"], answer.isPresent else {
                throw CoreLockerError(.serviceUnreachable, "the line breaks")
            }
            return ServiceAnswer(
                status: Int(answer["status"]?.integer ?? 0), retryAfter: answer["headers"]?["Retry-After"]?.text,
                body: Data((answer["body"]?.text ?? "").utf8))
        }
    }

    func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] {
        lock.withLock {
            let expected = steps.first?["digest"]?.text.flatMap { Data(lowercaseHex: $0) }
            if digest != expected { notes.append("another digest") }
        }
        return ["format": "development", "certificate": "AA", "signature": "AA"]
    }
}
