import CoreLockerCoreML
import CoreML
import StoreKit

@MainActor
final class Classifier {
    let locker: CoreLocker
    private(set) var model: MLModel?
    private var updates: Task<Void, Never>?

    init() throws {
        locker = try CoreLocker()
    }

    func start() async throws {
        updates = locker.observeTransactions(
            right: { CoreLocker.Right(tier: $0.productID) },
            report: { print("not unlocked: \($0.localizedDescription)") })
        try await load()
    }

    func load() async throws {
        model = try await locker.model(named: "Classifier")
    }

    func bought(_ result: VerificationResult<Transaction>) async throws {
        try await locker.unlock(with: result)
        try await load()
    }
}
