import Foundation
import Testing

@testable import CoreLocker

/// Unlocks that the app gives up.
@Suite struct CancellationTests {
    /// Where the unlock hangs until it is cancelled.
    private enum Interruption: CaseIterable, Sendable {
        case request, attestation, wait
    }

    /// A service and a device of which one hangs.
    private struct Hanging: Transport, Attester {
        let place: Interruption
        let reached: AsyncStream<Void>.Continuation

        func post(_ url: URL, _ body: Data) async throws -> ServiceAnswer {
            switch place {
            case .request: try await hang()
            case .attestation: break
            case .wait: throw CoreLockerError(.serviceUnreachable, "no line")
            }
            return ServiceAnswer(status: 201, retryAfter: nil, body: Data(#"{"challenge":"c","expires_at":1}"#.utf8))
        }

        func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] {
            try await hang()
            return [:]
        }

        @Sendable func hang() async throws {
            reached.yield()
            try await Task.sleep(nanoseconds: 3_600_000_000_000)
        }
    }

    @Test(.timeLimit(.minutes(10)), arguments: Interruption.allCases) private func cancels(_ place: Interruption) async throws {
        let (reached, continuation) = AsyncStream<Void>.makeStream()
        let hanging = Hanging(place: place, reached: continuation)
        let store = MemoryStore()
        let configuration = try AppConfiguration(
            try #require(try Vectors.cases(try Vectors.file("app_config.json")).first { $0["expect"]?.text == "ok" }).base64("file"))
        let bundle = BundleIdentity(id: UUID(), modelVersion: 1, publisher: configuration.publisher, tiers: ["free", "full"])
        let client = UnlockClient(
            configuration: configuration, deviceKey: SoftwareDeviceKey(), attester: hanging, store: store,
            clocks: DeviceClock.systemReading, transport: hanging,
            retries: RetryPolicy(attempts: 4, sleep: { _ in try await hanging.hang() }))
        let unlock = Task { try await client.unlock(bundle, tier: "full", purchase: .grant("a.b.c")) }
        for await _ in reached { break }
        unlock.cancel()
        await #expect(throws: CancellationError.self) { try await unlock.value }
        #expect(store.license(bundle: bundle.id) == nil)
        #expect(await client.state(of: bundle) == .locked)
    }
}
