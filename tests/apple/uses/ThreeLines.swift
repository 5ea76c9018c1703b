import CoreLockerCoreML
import CoreML
import StoreKit

/// An app as the README shows it.
@MainActor
final class Classifier {
    var model: MLModel?

    func bought(_ transaction: VerificationResult<Transaction>) async throws {
        let locker = try CoreLocker()
        try await locker.unlock(with: .appStore(transaction.jwsRepresentation))
        model = try await locker.model(named: "Classifier")
    }

    func started(_ locker: CoreLocker) async throws {
        let updates = locker.observeTransactions(right: { _ in CoreLocker.Right(tier: "full") }, report: { print($0) })
        defer { updates.cancel() }
        try await locker.renewIfDue()
        for await state in try await locker.states() where state == .expired { print("ended") }
        let configuration = MLModelConfiguration()
        configuration.functionName = "fast"
        model = try await locker.model(named: "Classifier", configuration: configuration, loading: .diskExposed)
    }
}
