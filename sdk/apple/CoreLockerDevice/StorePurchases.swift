import CoreLocker
import Foundation

/// A transaction as a store hands it over: StoreKit's `VerificationResult<Transaction>`, or a test's.
package protocol StoreTransaction: Sendable {
    /// Whether the store vouches for it.
    var isVerified: Bool { get }
    var isRevoked: Bool { get }
    var jwsRepresentation: String { get }
    /// The store hands out again what is not finished.
    func finish() async
}

extension CoreLocker {
    /// What a transaction buys here.
    ///
    /// ```swift
    /// let right = CoreLocker.Right(tier: "plus", model: "scanner")
    /// ```
    public struct Right: Sendable, Equatable {
        /// A tier of the key bundle; nil for the highest.
        public let tier: String?
        /// The model id of a key bundle; nil where the app holds one.
        public let model: String?

        /// - Parameters:
        ///   - tier: nil for the highest.
        ///   - model: model id of a key bundle; nil where the app holds one.
        public init(tier: String? = nil, model: String? = nil) { (self.tier, self.model) = (tier, model) }
    }

    /// A transaction and what it buys.
    package struct Bought<Item: StoreTransaction>: Sendable {
        let item: Item
        let right: Right

        package init(_ item: Item, _ right: Right) { (self.item, self.right) = (item, right) }
    }

    /// Unlocks with a transaction, and finishes it once the license is here. Throws `purchaseSignature` for one that is not verified.
    package func unlock<Item: StoreTransaction>(_ bought: Bought<Item>) async throws {
        let item = try Self.verified(bought.item)
        try await unlock(with: .appStore(item.jwsRepresentation), tier: bought.right.tier, model: bought.right.model)
        await item.finish()
    }

    /// Takes a transaction that arrives by itself: unlocks with it, or after a refund with what else is owned.
    ///
    /// - Parameters:
    ///   - owned: everything that the user owns now.
    ///   - report: told each refusal; what is refused is not finished.
    package func take<Item: StoreTransaction>(
        _ bought: Bought<Item>, owned: () async -> [Bought<Item>], report: (any Error) -> Void
    ) async {
        do {
            let entitlement = try entitlement(bought)
            if bought.item.isRevoked {
                try await giveBack(entitlement.bundle)
                try await unlock(owned: await owned(), only: entitlement.bundle, report: report)
            } else {
                try await unlockUnlessHigher(entitlement)
            }
            await bought.item.finish()
        } catch {
            report(error)
        }
    }

    /// Unlocks each model with the highest tier that is owned of it.
    ///
    /// - Parameter only: the bundle to unlock; nil for all.
    /// - Returns: how many models are unlocked by what is owned.
    @discardableResult
    package func unlock<Item: StoreTransaction>(
        owned: [Bought<Item>], only: UUID? = nil, report: (any Error) -> Void
    ) async throws -> Int {
        var entitlements: [Entitlement<Item>] = []
        for bought in owned where !bought.item.isRevoked {
            do {
                entitlements.append(try entitlement(bought))
            } catch {
                report(error)
            }
        }
        return try await unlockHighest(
            of: entitlements.filter { only == nil || $0.bundle == only }, unlock: unlockUnlessHigher, finish: { await $0.finish() },
            report: report)
    }

    private static func verified<Item: StoreTransaction>(_ item: Item) throws(CoreLockerError) -> Item {
        guard item.isVerified else { throw CoreLockerError(.purchaseSignature, "StoreKit does not vouch for the transaction") }
        return item
    }

    /// What a verified transaction unlocks. Throws `purchaseSignature` or `bundleMismatch`.
    private func entitlement<Item: StoreTransaction>(_ bought: Bought<Item>) throws -> Entitlement<Item> {
        let item = try Self.verified(bought.item)
        let bundle = try resources.bundle(of: bought.right.model)
        let tier = try bought.right.tier.map { try bundle.tier(named: $0) } ?? bundle.tiers.count - 1
        return Entitlement(item, bundle: bundle.id, tier: tier)
    }

    private func unlockUnlessHigher<Item: StoreTransaction>(_ owned: Entitlement<Item>) async throws {
        for bundle in bundles where bundle.id == owned.bundle {
            try await client.unlockUnlessHigher(
                bundle, tier: bundle.tiers[owned.tier], purchase: .appStore(owned.item.jwsRepresentation))
        }
    }

    /// After a refund the license ends as soon as the service knows of it, which asks the store. What else is owned takes its place.
    private func giveBack(_ id: UUID) async throws {
        let gone: [ErrorCode] = [.purchaseRevoked, .purchaseSuperseded, .licenseRevoked, .deviceInactive, .notUnlocked]
        do {
            for bundle in bundles where bundle.id == id { try await client.renew(bundle) }
        } catch let error as CoreLockerError where gone.contains(error.code) {}
    }
}
