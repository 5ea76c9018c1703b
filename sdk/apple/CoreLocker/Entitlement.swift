import Foundation

/// Something that the user owns, as a transaction of a store, and what it unlocks.
package struct Entitlement<Item: Sendable>: Sendable {
    package let item: Item
    package let bundle: UUID
    /// Index of the tier in the bundle.
    package let tier: Int

    package init(_ item: Item, bundle: UUID, tier: Int) { (self.item, self.bundle, self.tier) = (item, bundle, tier) }
}

/// Unlocks each bundle with the highest tier that is owned of it, or where that is refused with the next one.
///
/// - Parameters:
///   - finish: told what is settled: what unlocked, and what gives no more than that. What was refused comes again.
///   - report: told each refusal.
/// - Returns: how many bundles were unlocked.
/// - Throws: `CancellationError`.
package func unlockHighest<Item>(
    of owned: [Entitlement<Item>], unlock: (Entitlement<Item>) async throws -> Void, finish: (Item) async -> Void,
    report: (any Error) -> Void
) async throws -> Int {
    var unlocked = 0
    for bundle in Set(owned.map(\.bundle)) {
        var isUnlocked = false
        for entitlement in owned.filter({ $0.bundle == bundle }).sorted(by: { $0.tier > $1.tier }) {
            if !isUnlocked {
                do {
                    try await unlock(entitlement)
                } catch let error as CancellationError {
                    throw error
                } catch {
                    report(error)
                    continue
                }
                isUnlocked = true
                unlocked += 1
            }
            await finish(entitlement.item)
        }
    }
    return unlocked
}
