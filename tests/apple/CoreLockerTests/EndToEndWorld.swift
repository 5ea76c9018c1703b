import Foundation
import Testing

@testable import CoreLocker

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// What `tests/apple/end_to_end.py` set up: a service, a control server, an app's files, models.
struct EndToEndWorld {
    private static let place = ProcessInfo.processInfo.environment["CORELOCKER_TEST_ENVIRONMENT"].map(URL.init(fileURLWithPath:))
    static var isThere: Bool { place != nil }

    /// Like an app's resources: `corelocker.json`, and folders with models and key bundles.
    let folder: URL

    init() throws { folder = try #require(Self.place) }

    func file(_ path: String) -> URL { folder.appendingPathComponent(path) }

    func data(_ path: String) throws -> Data { try Data(contentsOf: file(path)) }

    func configuration(_ name: String = "corelocker") throws -> AppConfiguration {
        try AppConfiguration(contentsOf: file("\(name).json"))
    }

    func bundle(_ path: String = "dist/demo.clkey") throws -> KeyBundle {
        try KeyBundle(contentsOf: file(path), publisher: try configuration().publisher)
    }

    /// A purchase as the publisher's backend vouches for it.
    func purchase(_ order: String, product: String = "full", seconds: Int? = nil) async throws -> Purchase {
        var members = ["product": product]
        if let seconds { members["seconds"] = String(seconds) }
        return .grant(String(decoding: try await ask("grant/\(order)", .object(texts: members)), as: UTF8.self))
    }

    /// The JWS of a StoreKit transaction, as Xcode signs it.
    func transaction(_ product: String, id: String) async throws -> String {
        let claims = JSON.object(texts: ["originalTransactionId": id, "transactionId": id])
        return String(decoding: try await ask("transaction/\(product)", claims), as: UTF8.self)
    }

    /// Revokes the license, as an operator would.
    func revoke(_ license: License) async throws { _ = try await ask("revoke/\(license.id)") }

    /// What goes wrong with the next requests of the configuration `bad-line`, one each (`BadLine` in `control.py`).
    func setFaults(_ faults: [String]) async throws { _ = try await ask("faults/\(faults.joined(separator: ","))") }

    /// Asks the control server.
    func ask(_ call: String, _ members: JSON = .object([:])) async throws -> Data {
        let control = try #require(try JSONReader.read(try data("plan.json"))["control"]?.text)
        var request = URLRequest(url: try #require(URL(string: "\(control)/\(call)")))
        request.httpMethod = "POST"
        request.httpBody = try CanonicalJSON.encode(members)
        let (data, response) = try await URLSession.shared.data(for: request)
        try #require((response as? HTTPURLResponse)?.statusCode == 200)
        return data
    }

    /// A device: a key, a store, and a clock that tests may turn.
    struct Device {
        let key: SoftwareDeviceKey
        let store: MemoryStore
        let client: UnlockClient
        let clock = Locked<Int64>(0)
        /// Seconds that the client waited, or would have.
        let waits = Locked<[Double]>([])

        /// - Parameters:
        ///   - key: nil for a new one.
        ///   - store: nil for an empty one.
        init(
            _ world: EndToEndWorld, configuration: String = "corelocker", key: SoftwareDeviceKey? = nil, store: MemoryStore? = nil,
            attester: (any Attester)? = nil, attempts: Int = 2
        ) throws {
            let identity = try DevelopmentIdentity(pem: String(decoding: try world.data("identity.pem"), as: UTF8.self))
            let (clock, waits) = (clock, waits)
            self.key = key ?? SoftwareDeviceKey()
            self.store = store ?? MemoryStore()
            client = UnlockClient(
                configuration: try world.configuration(configuration), deviceKey: self.key, attester: attester ?? identity,
                store: self.store,
                clocks: {
                    let now = DeviceClock.systemReading()
                    return ClockReading(wall: now.wall + clock.value, ticks: now.ticks, boot: now.boot)
                }, transport: URLSessionTransport(),
                retries: RetryPolicy(attempts: attempts, firstWait: 0.1, sleep: { waits.value.append($0) }))
        }
    }
}
