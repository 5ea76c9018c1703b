import Foundation
import Testing

@testable import CoreLocker

/// Unlocks and renewals that meet, and what time changes (licenses of `tests/vectors/flow.json`).
@Suite struct ExchangeTests {
    /// Answers by path, and holds the first request to `heldPath` until it is released.
    private actor HeldService: Transport, Attester {
        private let answers: [String: ServiceAnswer]
        private let heldPath: String?
        private var holding: CheckedContinuation<Void, Never>?
        private var reached: CheckedContinuation<Void, Never>?
        private var hasHeld = false
        private(set) var paths: [String] = []

        init(_ answers: [String: ServiceAnswer] = [:], holding path: String? = nil) { (self.answers, heldPath) = (answers, path) }

        func post(_ url: URL, _ body: Data) async throws -> ServiceAnswer {
            paths.append(url.path)
            if url.path == heldPath, !hasHeld {
                hasHeld = true
                await withCheckedContinuation {
                    holding = $0
                    reached?.resume()
                }
            }
            let challenge = ServiceAnswer(status: 201, retryAfter: nil, body: Data(#"{"challenge":"c","expires_at":1}"#.utf8))
            guard let answer = url.path == "/v1/challenges" ? challenge : answers[url.path] else {
                throw CoreLockerError(.argument, "\(url.path) is not expected")
            }
            return answer
        }

        nonisolated func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] { ["format": "development"] }

        func isHeld() async {
            if holding == nil { await withCheckedContinuation { reached = $0 } }
        }

        func release() { holding?.resume() }
    }

    private static let (unlockPath, old) = ("/v1/licenses", "/v1/licenses/0f8fad5b-d9cb-469f-a165-70867728950e/renew")
    private static let new = "/v1/licenses/7c9e6679-7425-40de-944b-e07fc1f90ae7/renew"

    /// Everything that can run without the answer that is held.
    private func letOthersRun() async { for _ in 0..<2000 { await Task.yield() } }

    /// An unlock begins while the old license is being renewed: the new license stays, whatever the renewal brings.
    @Test(.timeLimit(.minutes(10)), arguments: ["renew-lower-tier", "renew-purchase-superseded"])
    func anUnlockBesideARenewal(_ renewal: String) async throws {
        let world = try FlowWorld()
        let service = HeldService(
            [Self.old: try world.answer(renewal), Self.unlockPath: try world.answer("unlock")], holding: Self.old)
        let store = MemoryStore(license: try world.held("renew-higher-tier"), bundle: world.bundle.id)
        let client = world.client(service, store)
        let renew = Task { try await client.renew(world.bundle, byDeviceKey: false) }
        await service.isHeld()
        let unlock = Task { try await client.unlock(world.bundle, tier: "full", purchase: .grant("a.b.c")) }
        await letOthersRun()
        await service.release()
        _ = await renew.result
        try await unlock.value
        #expect(try world.tier(store) == "full")
        #expect(await service.paths == ["/v1/challenges", Self.old, "/v1/challenges", Self.unlockPath])
    }

    /// A renewal that waits for an unlock renews what the unlock brought.
    @Test(.timeLimit(.minutes(10))) func aRenewalBesideAnUnlock() async throws {
        let world = try FlowWorld()
        let service = HeldService(
            [Self.unlockPath: try world.answer("unlock"), Self.new: try world.answer("renew")], holding: Self.unlockPath)
        let store = MemoryStore(license: try world.held("renew-higher-tier"), bundle: world.bundle.id)
        let client = world.client(service, store)
        let unlock = Task { try await client.unlock(world.bundle, tier: "full", purchase: .grant("a.b.c")) }
        await service.isHeld()
        let renew = Task { try await client.renew(world.bundle, byDeviceKey: false) }
        await letOthersRun()
        await service.release()
        try await unlock.value
        try await renew.value
        #expect(await service.paths.last == Self.new)
        #expect(try world.tier(store) == "full")
    }

    @Test(.timeLimit(.minutes(10))) func whoWaitsCanBeCancelled() async throws {
        let world = try FlowWorld()
        let service = HeldService([Self.old: try world.answer("renew"), Self.unlockPath: try world.answer("unlock")], holding: Self.old)
        let client = world.client(service, MemoryStore(license: try world.held("renew"), bundle: world.bundle.id))
        let renew = Task { try await client.renew(world.bundle, byDeviceKey: false) }
        await service.isHeld()
        let unlock = Task { try await client.unlock(world.bundle, tier: "full", purchase: .grant("a.b.c")) }
        await letOthersRun()
        unlock.cancel()
        await #expect(throws: CancellationError.self) { try await unlock.value }
        await service.release()
        try await renew.value
        try await client.unlock(world.bundle, tier: "full", purchase: .grant("a.b.c"))
        #expect(
            await service.paths.filter { $0 == Self.unlockPath }.count == 1,
            "the cancelled unlock asked for nothing, the next one has its turn")
    }

    /// What arrives by itself never takes a higher tier away, as long as that works.
    @Test(.timeLimit(.minutes(10))) func aLowerTierThatArrives() async throws {
        let world = try FlowWorld()
        let wall = Locked(world.now)
        let service = HeldService([Self.unlockPath: try world.answer("license-for-another-tier")])
        let store = MemoryStore(license: try world.held("renew"), bundle: world.bundle.id)
        let client = world.client(service, store, wall: wall)
        try await client.unlock(world.bundle, tier: "plus", purchase: .grant("a.b.c"), unlessHigher: true)
        #expect(try world.tier(store) == "full")
        #expect(await service.paths == [])
        let held = try License(try world.held("renew"), keys: world.configuration.licenseKeys)
        wall.value = try #require(held.expiresAt)
        _ = await outcome { try await client.unlock(world.bundle, tier: "plus", purchase: .grant("a.b.c"), unlessHigher: true) }
        #expect(await service.paths.last == Self.unlockPath, "the higher one has ended")
    }

    /// A license that the user removes does not come back with a renewal's answer.
    @Test(.timeLimit(.minutes(10))) func aRenewalOfWhatIsForgotten() async throws {
        let world = try FlowWorld()
        let service = HeldService([Self.old: try world.answer("renew")], holding: Self.old)
        let store = MemoryStore(license: try world.held("renew"), bundle: world.bundle.id)
        let client = world.client(service, store)
        let renew = Task { try await client.renew(world.bundle, byDeviceKey: false) }
        await service.isHeld()
        try await client.forget(world.bundle)
        await service.release()
        #expect(await outcome { try await renew.value } == "not-unlocked")
        #expect(store.license(bundle: world.bundle.id) == nil)
    }

    /// Many at once, for the thread sanitizer and for the order of the requests.
    @Test(.timeLimit(.minutes(10))) func manyAtOnce() async throws {
        let world = try FlowWorld()
        let answers = [
            Self.old: try world.answer("renew"), Self.new: try world.answer("renew"), Self.unlockPath: try world.answer("unlock"),
        ]
        let service = HeldService(answers)
        let store = MemoryStore(license: try world.held("renew"), bundle: world.bundle.id)
        let client = world.client(service, store)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<24 {
                group.addTask {
                    if number.isMultiple(of: 2) {
                        try await client.renew(world.bundle, byDeviceKey: false)
                    } else {
                        try await client.unlock(world.bundle, tier: "full", purchase: .grant("a.b.c"))
                    }
                }
                group.addTask { _ = await client.state(of: world.bundle) }
            }
            try await group.waitForAll()
        }
        let paths = await service.paths
        #expect(paths.count == 48)
        #expect(stride(from: 0, to: 48, by: 2).allSatisfy { paths[$0] == "/v1/challenges" && paths[$0 + 1] != "/v1/challenges" })
    }

    @Test(.timeLimit(.minutes(10))) func timeChangesTheState() async throws {
        let world = try FlowWorld()
        let license = try License(try world.held("renew"), keys: world.configuration.licenseKeys)
        let end = try #require(license.expiresAt)
        let wall = Locked(end - 10_000)
        // A sleep ends when it may, and the clock has moved on by as much.
        let sleeps = Locked<[Double]>([])
        let (allowed, allow) = AsyncStream<Void>.makeStream()
        let client = world.client(
            HeldService(), MemoryStore(license: try world.held("renew"), bundle: world.bundle.id), wall: wall,
            sleep: { seconds in
                for await _ in allowed { break }
                sleeps.value.append(seconds)
                wall.value += Int64(seconds)
            })
        var states = await client.states(of: world.bundle).makeAsyncIterator()
        func date(_ seconds: Int64) -> Date { Date(timeIntervalSince1970: Double(seconds)) }
        #expect(await states.next() == .unlocked(tier: "full", until: date(end)))
        for _ in 0..<3 { allow.yield() }
        #expect(await states.next() == .offline(until: date(end + 86_400)))
        #expect(sleeps.value == [3600, 3600, 2800], "until the end, an hour at most")
        for _ in 0..<24 { allow.yield() }
        #expect(await states.next() == .expired)
        #expect(sleeps.value.count == 27 && wall.value == end + 86_400)
    }
}
