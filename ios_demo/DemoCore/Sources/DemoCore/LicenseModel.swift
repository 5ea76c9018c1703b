import CoreLocker
import Observation

/// What the demo needs of the library's `CoreLocker`.
public protocol Locker: Sendable {
    /// Names of the tiers, that which ships locked first.
    var tiers: [String] { get }
    /// The state, now and whenever it changes.
    func states() async throws -> AsyncStream<UnlockState>
    /// nil without one that counts now.
    func license() async -> LicenseDetails?
    func renewIfDue() async throws
    func renew() async throws
    /// Removes the license from this device; the purchase stays.
    func forget() async throws
}

/// The state of the license, for every screen.
@MainActor
@Observable
public final class LicenseModel {
    public private(set) var state = UnlockState.locked
    /// nil without a license that counts now.
    public private(set) var details: LicenseDetails?
    /// Why the last renewal or removal failed.
    public private(set) var failure: Message?
    public private(set) var isBusy = false

    private let locker: any Locker

    public init(_ locker: any Locker) { self.locker = locker }

    public var description: StateDescription { StateDescription(state) }
    public var tiers: [String] { locker.tiers }

    /// The tier that works now; nil for a locked model.
    public var tier: String? { details?.tier }

    /// Whether a tier is within the one that works now.
    public func includes(_ tier: String) -> Bool {
        guard let own = self.tier.flatMap(tiers.firstIndex), let other = tiers.firstIndex(of: tier) else { return false }
        return other <= own
    }

    /// Follows the state until the task is cancelled.
    ///
    /// - Parameter changed: called before another license, or none, shows here.
    public func follow(changed: @MainActor () async -> Void) async {
        do {
            for await state in try await locker.states() {
                let details = await locker.license()
                if details != self.details { await changed() }
                (self.state, self.details) = (state, details)
            }
        } catch {
            failure = Message(error)
        }
    }

    /// Renews what is due. The state tells what came of it, and a license that has not ended works without.
    public func renewIfDue() async { try? await locker.renewIfDue() }

    public func renew() async { await work { try await $0.renew() } }

    public func forget() async { await work { try await $0.forget() } }

    private func work(_ action: (any Locker) async throws -> Void) async {
        guard !isBusy else { return }
        isBusy = true
        defer { isBusy = false }
        failure = nil
        do {
            try await action(locker)
        } catch {
            failure = Message(error)
        }
    }
}
