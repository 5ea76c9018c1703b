import CoreLockerCoreML
import CoreML

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
}
