import Foundation

/// What an app shows of a key bundle. The same cases in every language.
///
/// ```swift
/// switch state {
/// case .unlocked(let tier, _): Text("Unlocked: \(tier)")
/// case .offline(let end): Text("Connect before \(end.formatted())")
/// case .refused(let code): Text("Not unlocked (\(code.rawValue))")
/// case .locked, .unlocking, .expired, .revoked: PaywallView()
/// }
/// ```
public enum UnlockState: Sendable, Equatable {
    /// No license is here.
    case locked
    /// A license is being fetched.
    case unlocking
    /// The license is good; `until` is its end, nil when it is perpetual.
    case unlocked(tier: String, until: Date?)
    /// The license has ended, or it could not be renewed in time; the model works until then.
    case offline(until: Date)
    /// The license has ended.
    case expired
    /// The right is gone: refunded, revoked, or the place given to another device.
    case revoked
    /// Something else refused. With `attestationLost` the license has ended too, and only the purchase helps.
    case refused(ErrorCode)

    /// What a user or a developer can do about it; nil where there is nothing to do, or only the error's message helps.
    public var recoverySuggestion: String? {
        switch self {
        case .locked: "Unlock the model with a purchase."
        case .unlocking, .unlocked: nil
        case .offline, .expired: "Connect to the network and renew."
        case .revoked: "Restore purchases, or buy again."
        case .refused(let code): code.recoverySuggestion
        }
    }
}
