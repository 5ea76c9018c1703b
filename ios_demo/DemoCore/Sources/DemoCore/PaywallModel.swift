import Observation

/// What a product costs, in the store's words.
public struct Offer: Hashable, Sendable, Identifiable {
    /// The store's product identifier.
    public let id: String
    public let tier: String
    public let name: String
    public let description: String
    public let price: String
    public let isSubscription: Bool

    public init(id: String, tier: String, name: String, description: String, price: String, isSubscription: Bool) {
        (self.id, self.tier, self.name) = (id, tier, name)
        (self.description, self.price, self.isSubscription) = (description, price, isSubscription)
    }
}

/// How a purchase ended.
public enum PurchaseOutcome: Hashable, Sendable {
    /// Bought, and the model is unlocked.
    case unlocked
    /// Someone has to approve it, or the bank has to.
    case pending
    case cancelled
}

/// The store. What it sells, ``Catalog`` knows.
public protocol Storefront: Sendable {
    /// In the store's order.
    func offers(_ catalog: Catalog) async throws -> [Offer]
    func buy(_ offer: Offer) async throws -> PurchaseOutcome
    /// Unlocks with what the user owns, the highest tier first.
    ///
    /// - Parameter report: told each purchase that does not unlock.
    /// - Returns: whether one unlocks.
    func restore(_ catalog: Catalog, report: @escaping @Sendable (any Error) -> Void) async throws -> Bool
}

/// The offers, and what comes of buying.
@MainActor
@Observable
public final class PaywallModel {
    public enum Phase: Hashable, Sendable {
        case loading, ready
        case failed(Message)
    }

    /// What the button of an offer says.
    public enum Standing: Hashable, Sendable {
        /// The tier works already.
        case included
        case buyable
        /// This offer is being bought.
        case buying
        /// Something else is being bought or restored.
        case waiting
    }

    public private(set) var phase = Phase.loading
    public private(set) var offers: [Offer] = []
    /// What came of the last purchase or restore, where there is something to tell.
    public private(set) var notice: Message?
    /// Set when a purchase has unlocked: the paywall closes.
    public private(set) var isDone = false
    public private(set) var isRestoring = false

    private let store: any Storefront
    private let catalog: Catalog
    private let license: LicenseModel
    private var buying: Offer.ID?

    public init(store: any Storefront, catalog: Catalog, license: LicenseModel) {
        (self.store, self.catalog, self.license) = (store, catalog, license)
    }

    /// Nothing may be bought or restored beside it.
    public var isBusy: Bool { buying != nil || isRestoring }

    /// Asks the store, when the paywall opens.
    public func load() async {
        (notice, isDone) = (nil, false)
        if offers.isEmpty { phase = .loading }
        do {
            let found = try await store.offers(catalog).sorted { rank($0) < rank($1) }
            offers = found
            phase = found.isEmpty ? .failed(Message("The store offers nothing here. Try again later.")) : .ready
        } catch {
            // Cancelled with the view; the next time it asks again.
            if let message = Message(error), offers.isEmpty { phase = .failed(message) }
        }
    }

    private func rank(_ offer: Offer) -> Int { license.tiers.firstIndex(of: offer.tier) ?? license.tiers.count }

    public func standing(_ offer: Offer) -> Standing {
        if buying == offer.id { return .buying }
        if license.includes(offer.tier) { return .included }
        return isBusy ? .waiting : .buyable
    }

    public func buy(_ offer: Offer) async {
        guard standing(offer) == .buyable else { return }
        (buying, notice) = (offer.id, nil)
        defer { buying = nil }
        do {
            switch try await store.buy(offer) {
            case .unlocked: isDone = true
            case .pending: notice = Message("The purchase waits for approval. The model unlocks when it is there.")
            case .cancelled: break
            }
        } catch {
            notice = Message(error)
        }
    }

    public func restore() async {
        guard !isBusy else { return }
        (isRestoring, notice) = (true, nil)
        defer { isRestoring = false }
        do {
            let (refusals, refused) = AsyncStream.makeStream(of: (any Error).self)
            let isUnlocked = try await store.restore(catalog, report: { refused.yield($0) })
            refused.finish()
            notice = isUnlocked ? Message("Purchases restored.") : Message("There is no purchase to restore.")
            for await refusal in refusals where !isUnlocked {
                notice = Message(refusal)
                break
            }
        } catch {
            notice = Message(error)
        }
    }
}
