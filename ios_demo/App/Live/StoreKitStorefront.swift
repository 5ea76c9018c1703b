import CoreLockerCoreML
import DemoCore
import StoreKit

/// The App Store, or in the simulator the products of `Products.storekit`.
struct StoreKitStorefront: Storefront {
    let locker: CoreLocker

    func offers(_ catalog: Catalog) async throws -> [Offer] {
        try await Product.products(for: catalog.products).compactMap { product in
            catalog.tiers[product.id].map { tier in
                Offer(
                    id: product.id, tier: tier, name: product.displayName, description: product.description, price: product.displayPrice,
                    isSubscription: product.type == .autoRenewable)
            }
        }
    }

    /// Unlocks before it finishes the transaction: what fails here comes again.
    func buy(_ offer: Offer) async throws -> PurchaseOutcome {
        guard let product = try await Product.products(for: [offer.id]).first else { throw StoreKitError.notAvailableInStorefront }
        switch try await product.purchase() {
        case .success(let result):
            try await locker.unlock(with: result, as: CoreLocker.Right(tier: offer.tier))
            return .unlocked
        case .pending: return .pending
        case .userCancelled: return .cancelled
        @unknown default: return .cancelled
        }
    }

    /// Unlocks with the highest tier that the user owns.
    func restore(_ catalog: Catalog) async throws -> Bool {
        try await AppStore.sync()
        var owned: [String: VerificationResult<Transaction>] = [:]
        for await result in Transaction.currentEntitlements {
            guard case .verified(let transaction) = result, transaction.revocationDate == nil else { continue }
            owned[transaction.productID] = result
        }
        guard let best = catalog.best(of: owned.keys, tiers: locker.bundles.first?.tiers ?? []), let result = owned[best] else {
            return false
        }
        try await locker.unlock(with: result, as: CoreLocker.Right(tier: catalog.tiers[best]))
        return true
    }
}
