import Foundation
import Testing

@testable import CoreLocker

/// The licenses of `tests/vectors/flow.json`: their device, service and bundle.
struct FlowWorld {
    let configuration: AppConfiguration
    let bundle: BundleIdentity
    let key: SoftwareDeviceKey
    let now: Int64
    private let config: [JSON.Name: JSON]
    private let vectors: [JSON]

    init() throws {
        let file = try Vectors.file("flow.json")
        let about = try #require(file["bundle"])
        var config = try #require(file["config"]?.object)
        config["offline_grace"] = .integer(86_400)
        self.config = config
        configuration = try AppConfiguration(Self.bytes(config))
        bundle = BundleIdentity(
            id: try #require(UUID(uuidString: try about.text("id"))), modelVersion: try about.number("model_version"),
            publisher: configuration.publisher, tiers: try #require(about["tiers"]?.array).compactMap(\.text))
        key = try deviceKey(file["device_key"])
        now = try file.number("now")
        vectors = try Vectors.cases(file)
    }

    /// A JSON text of the members.
    static func bytes(_ members: [JSON.Name: JSON]) -> Data {
        var random = Seeded(1)
        return Data(random.spelled(.object(members)).utf8)
    }

    func held(_ name: String) throws -> String { try #require(try vector(name)["held"]?.text) }

    /// The service's last answer.
    func answer(_ name: String) throws -> ServiceAnswer {
        let answer = try #require(try vector(name)["steps"]?.array?.last?["answer"])
        return ServiceAnswer(status: Int(try answer.number("status")), retryAfter: nil, body: Data(try answer.text("body").utf8))
    }

    private func vector(_ name: String) throws -> JSON { try #require(vectors.first { $0.name == name }) }

    /// - Parameters:
    ///   - configuration: nil for that of the vectors.
    ///   - key: nil for the licenses' own.
    func client(
        _ service: some Transport & Attester, _ store: any LicenseStore, configuration: AppConfiguration? = nil,
        key: SoftwareDeviceKey? = nil, wall: Locked<Int64>? = nil, owned: @escaping @Sendable () async -> [Purchase] = { [] },
        sleep: @escaping @Sendable (Double) async throws -> Void = { _ in try await Task.sleep(nanoseconds: 3_600_000_000_000) }
    ) -> UnlockClient {
        let now = now
        return UnlockClient(
            configuration: configuration ?? self.configuration, deviceKey: key ?? self.key, attester: service, store: store,
            owned: owned, clocks: { ClockReading(wall: wall?.value ?? now, ticks: 1, boot: "boot") }, transport: service,
            retries: RetryPolicy(attempts: 1, sleep: { _ in }), sleep: sleep)
    }

    func license(_ store: any LicenseStore) throws -> License {
        try License(try #require(try store.license(bundle: bundle.id)), keys: configuration.licenseKeys)
    }

    func tier(_ store: any LicenseStore) throws -> String { try license(store).tier }

    /// Writes an app's resources: the configuration, and a key bundle without sections that these licenses unlock.
    func writeApp(_ folder: URL) throws {
        let publisher = try #require(PublicKey(jwk: TestKey.jwk)).thumbprint
        let own = config.merging(["publisher": .text(publisher)]) { $1 }
        try Self.bytes(own).write(to: folder.appendingPathComponent("corelocker.json"))
        let vector = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "no-sections" })
        let made = try vector.base64("bundle")
        let length = Int(made[8]) | Int(made[9]) << 8
        var members = try #require(try JSONReader.read(Data(made[12..<12 + length])).object)
        members["publisher_key"] = TestKey.jwk
        members["publisher"] = .text(publisher)
        members["bundle"] = .text(bundle.text)
        members["model_version"] = .integer(bundle.modelVersion)
        members["tiers"] = .array(bundle.tiers.map { .text($0) })
        let header = Self.bytes(members)
        let signed = Data("CLKEYB02".utf8) + withUnsafeBytes(of: UInt32(header.count).littleEndian) { Data($0) } + header
        try (signed + (try TestKey.sign(signed))).write(to: folder.appendingPathComponent("demo.clkey"))
    }
}

/// Answers an unlock by the transaction that it is asked with, and a renewal by itself.
actor TransactionService: Transport, Attester {
    private let unlocks: [String: ServiceAnswer]
    private let renewal: ServiceAnswer?
    /// Why there is no evidence for a renewal.
    private let obstacle: CoreLockerError?
    private(set) var asked: [String] = []

    init(_ unlocks: [String: ServiceAnswer], renewal: ServiceAnswer? = nil, obstacle: CoreLockerError? = nil) {
        (self.unlocks, self.renewal, self.obstacle) = (unlocks, renewal, obstacle)
    }

    func post(_ url: URL, _ body: Data) async throws -> ServiceAnswer {
        let members = try JSONReader.read(body)
        if url.path == "/v1/challenges" {
            return ServiceAnswer(status: 201, retryAfter: nil, body: Data(#"{"challenge":"c","expires_at":1}"#.utf8))
        }
        let transaction = members["purchase"]?["transaction"]?.text
        asked.append(transaction.map { "\($0) \(members["tier"]?.text ?? "")" } ?? "renewal")
        let named = transaction.map { unlocks["\($0) \(members["tier"]?.text ?? "")"] ?? unlocks[$0] }
        guard let answer = named ?? renewal else {
            throw CoreLockerError(.argument, "\(url.path) is not expected")
        }
        return answer
    }

    nonisolated func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] {
        if step == .renewal, let obstacle { throw obstacle }
        return ["format": "development"]
    }
}
