import CoreLockerCoreML
import CoreML
import StoreKit

@MainActor
final class Classifier {
    let locker: CoreLocker
    private(set) var model: MLModel?

    init() throws {
        locker = try CoreLocker()
    }

    func load() async throws {
        model = try await locker.model(named: "Classifier")
    }

    func bought(_ result: VerificationResult<Transaction>) async throws {
        try await locker.unlock(with: result)
        try await load()
    }
}
