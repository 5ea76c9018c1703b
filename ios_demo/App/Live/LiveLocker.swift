import CoreLockerCoreML
import DemoCore

/// The demo's one model, by way of `CoreLocker`.
struct LiveLocker: Locker {
    private let locker: CoreLocker
    private let bundle: KeyBundle

    /// Throws `bundleMismatch` unless the app holds one key bundle.
    init(_ locker: CoreLocker) throws {
        guard locker.bundles.count == 1, let bundle = locker.bundles.first else {
            throw CoreLockerError(.bundleMismatch, "The app holds \(locker.bundles.count) key bundles in place of one")
        }
        (self.locker, self.bundle) = (locker, bundle)
    }

    var tiers: [String] { bundle.tiers }

    func states() async throws -> AsyncStream<UnlockState> { try await locker.states() }

    func license() async -> LicenseDetails? {
        guard let license = try? await locker.client.license(for: bundle) else { return nil }
        return LicenseDetails(license)
    }

    func renewIfDue() async throws { try await locker.renewIfDue() }

    func renew() async throws { try await locker.client.renew(bundle) }

    func forget() async throws { try await locker.client.forget(bundle) }
}
