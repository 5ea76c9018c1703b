import CoreLockerCoreML
import DemoCore
import Foundation
import Observation

/// Puts the app together once, when it starts.
@MainActor
@Observable
final class Launch {
    enum Outcome {
        case ready(DemoModel)
        case failed(Message)
    }

    let outcome: Outcome
    /// Purchases that arrive by themselves, for as long as the app runs.
    @ObservationIgnored private let transactions: Task<Void, Never>?

    init() {
        do {
            let locker = try CoreLocker()
            #if DEBUG
                try Self.forgetLicensesIfAsked(locker)
            #endif
            let (catalog, pictures) = (try Self.catalog(), try Self.pictures())
            outcome = .ready(
                DemoModel(
                    locker: try LiveLocker(locker), store: StoreKitStorefront(locker: locker), catalog: catalog,
                    loader: ModelLoader(locker: locker), pictures: pictures))
            transactions = locker.observeTransactions(
                right: { catalog.right($0) },
                // The state of the license tells the user.
                report: { _ in })
        } catch {
            outcome = .failed(Message(error) ?? Message("Something went wrong: %@", .text(error.localizedDescription)))
            transactions = nil
        }
    }

    static func catalog() throws -> Catalog { try Catalog(try resource("products", "json")) }

    static func pictures() throws -> LabelledSet {
        try LabelledSet(
            images: try resource("images", "idx3-ubyte", in: "Pictures"), labels: try resource("labels", "idx1-ubyte", in: "Pictures"))
    }

    private static func resource(_ name: String, _ kind: String, in folder: String? = nil) throws -> Data {
        guard let url = Bundle.main.url(forResource: name, withExtension: kind, subdirectory: folder) else {
            throw CoreLockerError(.fileAccess, "The app does not hold \(name).\(kind)")
        }
        return try Data(contentsOf: url)
    }
}
