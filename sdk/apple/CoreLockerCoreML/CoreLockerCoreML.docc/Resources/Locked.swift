import CoreLockerCoreML

@MainActor
final class Classifier {
    let locker: CoreLocker

    init() throws {
        locker = try CoreLocker()
    }
}
