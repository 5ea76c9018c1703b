import CoreLockerCoreML
import CoreML
import StoreKit

@MainActor
final class Classifier {
    let locker: CoreLocker
    private(set) var model: MLModel?
    private(set) var status = ""
    private var updates: Task<Void, Never>?

    init() throws {
        locker = try CoreLocker()
    }

    func start() async throws {
        updates = locker.observeTransactions(
            right: { CoreLocker.Right(tier: $0.productID) },
            report: { print("not unlocked: \($0.localizedDescription)") })
        try? await locker.renewIfDue()
        for await state in try await locker.states() {
            status = text(state)
            try await load()
        }
    }

    private func text(_ state: UnlockState) -> String {
        switch state {
        case .locked: "Not bought yet"
        case .unlocking: "Unlocking"
        case .unlocked(let tier, _): "Unlocked: \(tier)"
        case .offline(let end): "Connect before \(end.formatted())"
        case .expired: "The license has ended"
        case .revoked: "The purchase was refunded, or another device took its place"
        case .refused(let code): "Not unlocked (\(code.rawValue))"
        }
    }

    func load() async throws {
        model = try await locker.model(named: "Classifier")
    }

    func bought(_ result: VerificationResult<Transaction>) async throws {
        try await locker.unlock(with: result)
        try await load()
    }
}
