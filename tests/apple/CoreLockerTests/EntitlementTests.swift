import Foundation
import Testing

@testable import CoreLocker

/// Which of several purchases unlocks.
@Suite struct EntitlementTests {
    private static let (first, second) = (UUID(), UUID())

    /// What was unlocked and what was finished, when the items in `refused` are refused.
    private func run(_ owned: [Entitlement<String>], refused: Set<String> = []) async throws -> (Int, Set<String>, Set<String>, Int) {
        var (unlocked, finished, reports) = (Set<String>(), Set<String>(), 0)
        let count = try await unlockHighest(
            of: owned,
            unlock: {
                if refused.contains($0.item) { throw CoreLockerError(.purchaseExpired, "refused") }
                unlocked.insert($0.item)
            }, finish: { finished.insert($0) }, report: { _ in reports += 1 })
        return (count, unlocked, finished, reports)
    }

    private let owned = [
        Entitlement("plus", bundle: first, tier: 1), Entitlement("full", bundle: first, tier: 2),
        Entitlement("pro", bundle: second, tier: 1),
        Entitlement("plus again", bundle: first, tier: 1),
    ]

    @Test func theHighestTierUnlocks() async throws {
        let (count, unlocked, finished, reports) = try await run(owned)
        #expect(count == 2 && reports == 0)
        #expect(unlocked == ["full", "pro"])
        #expect(finished == ["plus", "full", "pro", "plus again"])
        #expect(try await run([]).0 == 0)
    }

    @Test func theNextOneWhereItIsRefused() async throws {
        let (count, unlocked, finished, reports) = try await run(owned, refused: ["full", "pro"])
        #expect(count == 1 && reports == 2)
        #expect(unlocked.count == 1 && unlocked.isSubset(of: ["plus", "plus again"]))
        #expect(finished == ["plus", "plus again"], "what was refused comes again")
    }

    @Test func cancellationEndsIt() async {
        await #expect(throws: CancellationError.self) {
            _ = try await unlockHighest(of: owned, unlock: { _ in throw CancellationError() }, finish: { _ in }, report: { _ in })
        }
    }
}
