import CoreLocker
import Foundation

/// A refusal in words. Codes that ask the same of the user share a sentence, and the code stands in it.
public struct Refusal: Equatable, Sendable {
    public let advice: Message
    public let action: StateDescription.Action?

    public init(_ code: ErrorCode) {
        switch code {
        case .serviceUnreachable, .serviceProtocol:
            self.init("The unlock service cannot be reached. Check the network, then try again. (%@)", code, .restore)
        case .service, .serviceBusy, .overloaded, .rateLimited, .timeout, .purchaseUpstream, .purchaseUpstreamDenied, .storageUnavailable,
            .notReady, .internalError, .challengeExpired, .challengeUsed, .challengeMalformed:
            self.init("The unlock service is busy or out of order. Try again later. (%@)", code, .restore)
        case .licenseExpired, .licenseClock, .licenseNotYetValid:
            self.init("Check the device's date and time, then renew. (%@)", code, .renew)
        case .deviceLimit:
            self.init("The purchase is in use on as many devices as it allows. Release one of them, or wait. (%@)", code, .restore)
        case .purchasePending:
            self.init("The purchase waits for its payment or approval. The model unlocks when it is there. (%@)", code, nil)
        case .purchaseNotFound, .purchaseExpired, .purchaseRevoked, .purchaseSuperseded, .purchaseStale, .purchaseNotYetValid,
            .licenseRevoked, .deviceInactive:
            self.init("The purchase no longer counts. Restore purchases, or buy again. (%@)", code, .restore)
        case .notUnlocked, .licenseUnknown, .licenseDevice, .licenseWrap, .licenseFormat, .licenseType, .licenseBundle,
            .licenseModelVersion, .licenseTier, .license:
            self.init("This device's license does not fit. Restore purchases to get another one. (%@)", code, .restore)
        case .attestation, .attestationRefused, .attestationEvidence, .deviceKey:
            self.init("This device cannot prove that it is genuine. A simulator needs the development identity. (%@)", code, .restore)
        case .bundleRetired, .bundleVersion, .patchVersion, .restoreSize, .restoreReplaced, .restoreRestored, .restoreAlready,
            .bundleMismatch:
            self.init("This version of the app no longer fits its model. Update the app. (%@)", code, nil)
        case .memory:
            self.init("There is too little memory. Close other apps and try again. (%@)", code, .restore)
        default:
            self.init("The app is damaged or was built for another service. Install it again. (%@)", code, nil)
        }
    }

    private init(_ key: String, _ code: ErrorCode, _ action: StateDescription.Action?) {
        (advice, self.action) = (Message(key, .text(code.rawValue)), action)
    }
}

extension Message {
    /// What went wrong; nil for a task that was cancelled, which is nothing to tell.
    public init?(_ error: any Error) {
        switch error {
        case is CancellationError: return nil
        case let refusal as CoreLockerError: self = Refusal(refusal.code).advice
        default: self.init("Something went wrong: %@", .text(error.localizedDescription))
        }
    }
}
