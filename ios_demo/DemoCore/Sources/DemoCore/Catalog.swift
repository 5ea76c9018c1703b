import CoreLocker
import Foundation

/// What the app sells: `products.json`, which the local unlock service is set up with too.
public struct Catalog: Hashable, Sendable {
    /// Tier by product identifier.
    public let tiers: [String: String]

    public init(tiers: [String: String]) { self.tiers = tiers }

    /// Reads an object of product identifiers and tiers. Throws ``CoreLockerError`` with `fileAccess`.
    public init(_ json: Data) throws {
        // Not JSONDecoder: that of Linux stops the process at some damaged texts.
        guard let tiers = (try? JSONSerialization.jsonObject(with: json)) as? [String: String] else {
            throw CoreLockerError(.fileAccess, "products.json is no object of product identifiers and tiers")
        }
        self.init(tiers: tiers)
    }

    public var products: [String] { tiers.keys.sorted() }
}
