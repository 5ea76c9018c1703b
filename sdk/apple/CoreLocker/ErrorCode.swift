import Foundation

/// Why something was refused. The raw values are the codes of `docs/errors.md`, the same in every language.
///
/// ```swift
/// do {
///     try await locker.unlock(with: purchase)
/// } catch let error as CoreLockerError where error.code == .deviceLimit {
///     showTooManyDevices(until: error.retryAt)
/// }
/// ```
public enum ErrorCode: String, Sendable, CaseIterable {
    // The C core (`corelocker.h`).
    case argument, memory
    case fileAccess = "file-access"
    case fileChanged = "file-changed"

    // Patch.
    case patchTruncated = "patch-truncated"
    case patchMagic = "patch-magic"
    case patchVersion = "patch-version"
    case patchReserved = "patch-reserved"
    case patchRun = "patch-run"
    case patchKind = "patch-kind"
    case patchOrder = "patch-order"
    case patchOverflow = "patch-overflow"
    case patchBounds = "patch-bounds"
    case patchOverlap = "patch-overlap"
    case patchPayload = "patch-payload"
    case patchTable = "patch-table"
    case patchPadding = "patch-padding"
    case patchTrailing = "patch-trailing"

    // Key bundle.
    case bundleTruncated = "bundle-truncated"
    case bundleMagic = "bundle-magic"
    case bundleHeader = "bundle-header"
    case bundleVersion = "bundle-version"
    case bundleSignature = "bundle-signature"
    case bundlePublisher = "bundle-publisher"
    case bundleTrailing = "bundle-trailing"
    case bundleContentKey = "bundle-content-key"
    case bundleMismatch = "bundle-mismatch"

    // Restoring.
    case restoreSize = "restore-size"
    case restoreAlready = "restore-already"
    case restoreReplaced = "restore-replaced"
    case restoreRestored = "restore-restored"

    // The device itself.
    case deviceUnsupported = "device-unsupported"
    case deviceBusy = "device-busy"
    case attestationLost = "attestation-lost"

    // App configuration and license.
    case appConfig = "app-config"
    case canonicalJSON = "canonical-json"
    case notUnlocked = "not-unlocked"
    case license
    case licenseFormat = "license-format"
    case licenseType = "license-type"
    case licenseSignature = "license-signature"
    case licenseIssuer = "license-issuer"
    case licenseAudience = "license-audience"
    case licenseEnvironment = "license-environment"
    case licenseBundle = "license-bundle"
    case licenseModelVersion = "license-model-version"
    case licenseTier = "license-tier"
    case licenseDevice = "license-device"
    case licenseNotYetValid = "license-not-yet-valid"
    case licenseExpired = "license-expired"
    case licenseClock = "license-clock"
    case licenseRevoked = "license-revoked"
    case licenseWrap = "license-wrap"

    // The service cannot be talked to.
    case service
    case serviceProtocol = "service-protocol"
    case serviceUnreachable = "service-unreachable"
    case serviceBusy = "service-busy"

    // What the service answers (`docs/formats.md`, Unlock API).
    case notFound = "not-found"
    case methodNotAllowed = "method-not-allowed"
    case requestTimeout = "request-timeout"
    case payloadTooLarge = "payload-too-large"
    case unsupportedMediaType = "unsupported-media-type"
    case headersTooLarge = "headers-too-large"
    case requestMalformed = "request-malformed"
    case challengeMalformed = "challenge-malformed"
    case challengeExpired = "challenge-expired"
    case challengeUsed = "challenge-used"
    case appUnknown = "app-unknown"
    case bundleUnknown = "bundle-unknown"
    case bundleRetired = "bundle-retired"
    case tierUnknown = "tier-unknown"
    case licenseUnknown = "license-unknown"
    case formatNotAllowed = "format-not-allowed"
    case providerNotAllowed = "provider-not-allowed"
    case deviceKey = "device-key"
    case attestationRefused = "attestation-refused"
    case attestationEvidence = "attestation-evidence"
    case purchase
    case purchaseFormat = "purchase-format"
    case purchaseSignature = "purchase-signature"
    case purchaseEnvironment = "purchase-environment"
    case purchaseApp = "purchase-app"
    case purchaseAccount = "purchase-account"
    case purchaseProduct = "purchase-product"
    case purchaseNotYetValid = "purchase-not-yet-valid"
    case purchaseStale = "purchase-stale"
    case purchaseNotFound = "purchase-not-found"
    case purchasePending = "purchase-pending"
    case purchaseExpired = "purchase-expired"
    case purchaseRevoked = "purchase-revoked"
    case purchaseSuperseded = "purchase-superseded"
    case purchaseUpstream = "purchase-upstream"
    case purchaseUpstreamDenied = "purchase-upstream-denied"
    case deviceLimit = "device-limit"
    case deviceInactive = "device-inactive"
    case rateLimited = "rate-limited"
    case overloaded
    case timeout
    case internalError = "internal-error"
    case storageUnavailable = "storage-unavailable"
    case notReady = "not-ready"
}

/// A refusal: what every function of this library throws.
///
/// ```swift
/// do {
///     try await client.unlock(bundle, tier: "full", purchase: .appStore(transaction))
/// } catch let error as CoreLockerError where error.code == .deviceLimit {
///     show(error.localizedDescription, error.recoverySuggestion)
/// }
/// ```
public struct CoreLockerError: Error, LocalizedError, Equatable, Sendable {
    /// The stable code.
    public let code: ErrorCode
    /// A sentence for people. It holds no secret.
    public let message: String
    /// When a new device may take a place of the purchase; only with `deviceLimit`.
    public let retryAt: Date?
    /// The request's id in the service's log, where the service gave one.
    public let requestID: String?

    /// A refusal; the members say what each argument is.
    public init(_ code: ErrorCode, _ message: String, retryAt: Date? = nil, requestID: String? = nil) {
        self.code = code
        self.message = message
        self.retryAt = retryAt
        self.requestID = requestID
    }

    public var errorDescription: String? { "\(message) [\(code.rawValue)]" }

    /// What a user or a developer can do about it.
    public var recoverySuggestion: String? { code.recoverySuggestion }
}

extension ErrorCode {
    /// What a user or a developer can do about it; nil where only the message helps.
    ///
    /// ```swift
    /// if case .refused(let code) = state { hint = code.recoverySuggestion }
    /// ```
    public var recoverySuggestion: String? {
        switch self {
        case .serviceUnreachable, .serviceBusy, .overloaded, .rateLimited, .timeout, .requestTimeout, .purchaseUpstream,
            .storageUnavailable, .notReady, .internalError:
            "Try again later. A license that has not ended still works."
        case .notUnlocked: "Unlock the model first."
        case .licenseExpired, .licenseClock, .licenseNotYetValid:
            "Check the device's date and time, then renew online."
        case .deviceLimit: "Release another device, or wait."
        case .deviceInactive, .licenseWrap, .licenseDevice, .licenseFormat, .licenseType, .licenseModelVersion,
            .licenseBundle, .licenseUnknown:
            "Unlock the model again."
        case .attestationLost: "Unlock the model again with the purchase, or restore purchases."
        case .deviceBusy: "Try again later, or restart the device."
        case .deviceUnsupported: "Use the model as it ships; this device cannot unlock it."
        case .purchasePending: "Wait until the store has been paid."
        case .purchaseNotFound, .purchaseExpired, .purchaseRevoked, .purchaseSuperseded, .purchaseStale:
            "Buy, or restore purchases."
        case .bundleRetired: "Update the app."
        case .restoreReplaced, .restoreSize, .restoreRestored, .restoreAlready, .bundleMismatch:
            "Use the locked file and the key bundle of one lock."
        case .bundleVersion, .patchVersion: "Lock the model again with the release that this library belongs to."
        case .serviceProtocol: "Check the network: a proxy or a sign-in page answers in place of the service."
        default: nil
        }
    }
}
