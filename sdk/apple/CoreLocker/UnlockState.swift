import Foundation

/// What an app shows of a key bundle. The same cases in every language.
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
    /// Something else refused.
    case refused(ErrorCode)
}
