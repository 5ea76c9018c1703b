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

    func restore(_ catalog: Catalog, report: @escaping @Sendable (any Error) -> Void) async throws -> Bool {
        try await locker.restorePurchases(right: { catalog.right($0) }, report: report) > 0
    }
}

extension Catalog {
    /// What a transaction buys here; nil for what the app does not sell.
    func right(_ transaction: Transaction) -> CoreLocker.Right? { tiers[transaction.productID].map { CoreLocker.Right(tier: $0) } }
}
