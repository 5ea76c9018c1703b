import CoreLocker
import Foundation

/// A refusal in words. Codes that ask the same of the user share a sentence, and the code stands in it.
public struct Refusal: Equatable, Sendable {
    public let advice: Message
    public let action: StateDescription.Action?

    public init(_ code: ErrorCode) {
        let shown = Message.Argument.text(code.rawValue)
        switch code {
        case .serviceUnreachable, .serviceProtocol:
            self.init(Message("The unlock service cannot be reached. Check the network, then try again. (%@)", shown), .restore)
        case .service, .serviceBusy, .overloaded, .rateLimited, .timeout, .purchaseUpstream, .purchaseUpstreamDenied, .storageUnavailable,
            .notReady, .internalError, .requestTimeout, .challengeExpired, .challengeUsed, .challengeMalformed:
            self.init(Message("The unlock service is busy or out of order. Try again later. (%@)", shown), .restore)
        case .licenseExpired, .licenseClock, .licenseNotYetValid:
            self.init(Message("Check the device's date and time, then renew. (%@)", shown), .renew)
        case .deviceLimit:
            self.init(
                Message("The purchase is in use on as many devices as it allows. Release one of them, or wait. (%@)", shown), .restore)
        case .purchasePending:
            self.init(Message("The purchase waits for its payment or approval. The model unlocks when it is there. (%@)", shown), nil)
        case .purchaseNotFound, .purchaseExpired, .purchaseRevoked, .purchaseSuperseded, .purchaseStale, .purchaseNotYetValid,
            .licenseRevoked, .deviceInactive:
            self.init(Message("The purchase no longer counts. Restore purchases, or buy again. (%@)", shown), .restore)
        case .notUnlocked, .licenseUnknown, .licenseDevice, .licenseWrap, .licenseFormat, .licenseType, .licenseBundle,
            .licenseModelVersion, .licenseTier, .license:
            self.init(Message("This device's license does not fit. Restore purchases to get another one. (%@)", shown), .restore)
        case .attestationLost:
            self.init(Message("The app was installed anew. Restore purchases to unlock the model again. (%@)", shown), .restore)
        case .deviceBusy:
            self.init(Message("This device's secure hardware is busy. Try again later. (%@)", shown), .restore)
        case .attestationRefused, .attestationEvidence, .deviceKey, .deviceUnsupported:
            self.init(
                Message("This device cannot prove that it is genuine. A simulator needs the development identity. (%@)", shown), .restore)
        case .bundleRetired, .bundleVersion, .patchVersion, .restoreSize, .restoreReplaced, .restoreRestored, .restoreAlready,
            .bundleMismatch:
            self.init(Message("This version of the app no longer fits its model. Update the app. (%@)", shown), nil)
        case .memory:
            self.init(Message("There is too little memory. Close other apps and try again. (%@)", shown), .restore)
        default:
            self.init(Message("The app is damaged or was built for another service. Install it again. (%@)", shown), nil)
        }
    }

    private init(_ advice: Message, _ action: StateDescription.Action?) { (self.advice, self.action) = (advice, action) }
}

extension Message {
    /// What went wrong; nil for a task that was cancelled, which is nothing to tell.
    public init?(_ error: any Error) {
        switch error {
        case is CancellationError: return nil
        case let refusal as CoreLockerError: self = Refusal(refusal.code).advice
        default: self = Message("Something went wrong: %@", .text(error.localizedDescription))
        }
    }
}
