import Foundation

@frozen public enum VerificationResult<SignedType> {
    case unverified(SignedType, VerificationError)
    case verified(SignedType)
    public enum VerificationError: Error {
        case invalidSignature
    }
}

extension VerificationResult: Sendable where SignedType: Sendable {}

extension VerificationResult {
    public var unsafePayloadValue: SignedType { fatalError() }
}

extension VerificationResult where SignedType == Transaction {
    public var jwsRepresentation: String { fatalError() }
}

public struct Transaction: Identifiable, Sendable {
    public let id: UInt64
    public let productID: String
    public let revocationDate: Date?
    public func finish() async {}
    public static var updates: Transactions { fatalError() }
    public static var currentEntitlements: Transactions { fatalError() }
    public struct Transactions: AsyncSequence, Sendable {
        public typealias Element = VerificationResult<Transaction>
        public struct AsyncIterator: AsyncIteratorProtocol {
            public mutating func next() async -> VerificationResult<Transaction>? { nil }
        }
        public func makeAsyncIterator() -> AsyncIterator { AsyncIterator() }
    }
}

public enum AppStore {
    public static func sync() async throws {}
}

public enum StoreKitError: Error { case notAvailableInStorefront }

public struct Product: Identifiable, Sendable {
    public struct ProductType: Hashable, Sendable { public static let autoRenewable = ProductType() }
    public struct PurchaseOption: Hashable, Sendable {}
    public enum PurchaseResult: Sendable {
        case success(VerificationResult<Transaction>)
        case userCancelled
        case pending
    }
    public let id: String
    public let type: ProductType
    public let displayName: String
    public let description: String
    public let displayPrice: String
    public static func products<Identifiers: Collection<String>>(for identifiers: Identifiers) async throws -> [Product] { [] }
    @MainActor public func purchase(options: Set<PurchaseOption> = []) async throws -> PurchaseResult { fatalError() }
}
