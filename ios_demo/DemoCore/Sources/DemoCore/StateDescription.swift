import CoreLocker

/// A state in words: what is the case, and what the user can do about it.
public struct StateDescription: Equatable, Sendable {
    /// How it looks.
    public enum Tone: Hashable, Sendable {
        case neutral, working, good, warning, bad
    }

    /// What the button beside it does.
    public enum Action: Hashable, Sendable {
        case buy, renew, restore

        public var title: Message {
            switch self {
            case .buy: Message("Unlock the model")
            case .renew: Message("Renew now")
            case .restore: Message("Restore purchases")
            }
        }
    }

    public let title: Message
    public let advice: Message
    /// Name of an SF Symbol.
    public let symbol: String
    public let tone: Tone
    /// nil where there is nothing to do, or nothing that a button could do.
    public let action: Action?

    public init(_ state: UnlockState, formats: Formats = Formats()) {
        switch state {
        case .locked:
            self.init(
                Message("Locked"), Message("The model runs, but most answers are wrong. Buy a tier to unlock it."), "lock.fill", .neutral,
                .buy)
        case .unlocking:
            self.init(
                Message("Unlocking…"), Message("This device proves itself and the purchase to the unlock service."), "lock.rotation",
                .working, nil)
        case .unlocked(let tier, nil):
            self.init(
                Message("Unlocked: %@", .text(tier)), Message("The model works on this device without an end. No network is needed."),
                "lock.open.fill", .good, nil)
        case .unlocked(let tier, let until?):
            self.init(
                Message("Unlocked: %@", .text(tier)),
                Message("The model works until %@. The license is renewed before, when the network is there.", .text(formats.date(until))),
                "lock.open.fill", .good, nil)
        case .offline(let until):
            self.init(
                Message("Renewal overdue"),
                Message("The model works until %@. Connect to the network and renew.", .text(formats.date(until))),
                "wifi.exclamationmark", .warning, .renew)
        case .expired:
            self.init(
                Message("License ended"), Message("Connect to the network and renew. What was bought for good comes back at once."),
                "calendar.badge.exclamationmark", .warning, .renew)
        case .revoked:
            self.init(
                Message("License withdrawn"),
                Message("The purchase was refunded, or another device uses its place. Restore purchases, or buy again."), "xmark.seal.fill",
                .bad, .restore)
        case .refused(let code):
            self.init(Message("Not unlocked"), Refusal(code).advice, "exclamationmark.triangle.fill", .bad, Refusal(code).action)
        }
    }

    private init(_ title: Message, _ advice: Message, _ symbol: String, _ tone: Tone, _ action: Action?) {
        (self.title, self.advice, self.symbol, self.tone, self.action) = (title, advice, symbol, tone, action)
    }
}
