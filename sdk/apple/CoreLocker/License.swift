import Foundation

/// The claims of a license whose signature was checked (`docs/formats.md`, License).
///
/// ```swift
/// let license = try await client.license(for: bundle)
/// print(license.tier, license.expiresAt.map { Date(timeIntervalSince1970: Double($0)) } as Any)
/// ```
public struct License: Sendable, Equatable {
    static let type = "corelocker-license+jwt"
    static let wrappedKeySize = 65 + ContentKey.size + 16

    /// `iss`, the service.
    public let issuer: String
    /// When it was issued, Unix seconds.
    public let issuedAt: Int64
    /// From when it counts, Unix seconds.
    public let notBefore: Int64
    /// When it ends, Unix seconds; nil when it is perpetual.
    public let expiresAt: Int64?
    /// `jti`.
    public let id: String
    /// `aud`.
    public let app: String
    /// `env`.
    public let environment: AppEnvironment
    /// The key bundle's id, lower case.
    public let bundle: String
    /// The version of the model that it unlocks.
    public let modelVersion: Int64
    /// The highest tier that the content key opens.
    public let tier: String
    /// `cnf.jkt`: thumbprint of the device key.
    public let device: String
    let wrappedKey: Data
    /// HPKE's info, which binds the wrapped key to all other claims.
    let info: Data

    /// Reads a token that one of `keys` has signed. It says nothing about where and when the license may be used.
    init(_ token: String, keys: [PublicKey]) throws(CoreLockerError) {
        let claims = try SignedToken.read(token, type: Self.type, keys: keys)
        let others = claims.filter { $0.key != "wk" }
        guard let canonical = try? CanonicalJSON.encode(.object(others)) else {
            throw CoreLockerError(.licenseFormat, "The license's claims have no canonical JSON")
        }
        info = Data("corelocker license v1".utf8) + Cryptography.sha256(canonical)
        let fields = Fields(claims, "the license", .licenseFormat)
        issuedAt = try fields.integer("iat", 0...JSON.maxInteger)
        notBefore = try fields.integer("nbf", 0...JSON.maxInteger)
        expiresAt = fields.has("exp") ? try fields.integer("exp", 0...JSON.maxInteger) : nil
        if let expiresAt, expiresAt <= max(issuedAt, notBefore) { throw fields.refusal("ends before it begins") }
        guard let environment = AppEnvironment(rawValue: try Self.text(fields, "env")) else {
            throw fields.refusal("env is neither production nor development")
        }
        self.environment = environment
        bundle = try Self.text(fields, "bundle")
        guard UUID(uuidString: bundle)?.uuidString.lowercased() == bundle else {
            throw fields.refusal("bundle is no UUID in lower case")
        }
        device = try Self.text(try fields.child("cnf"), "jkt")
        guard device.unicodeScalars.count == 43 else { throw fields.refusal("cnf.jkt is no key thumbprint") }
        wrappedKey = try fields.base64url("wk", count: Self.wrappedKeySize)
        issuer = try Self.text(fields, "iss")
        id = try Self.text(fields, "jti")
        app = try Self.text(fields, "aud")
        modelVersion = try fields.integer("model_version", 0...JSON.maxInteger)
        tier = try Self.text(fields, "tier")
    }

    private static func text(_ fields: Fields, _ name: JSON.Name) throws(CoreLockerError) -> String {
        guard let value = fields.members[name]?.text, (1...256).contains(value.unicodeScalars.count) else {
            throw fields.refusal("\(name) is no text of 1 to 256 characters")
        }
        return value
    }

    /// When a device should ask for the next license: after two thirds of this one's time.
    public var renewAt: Int64? { expiresAt.map { issuedAt + ($0 - issuedAt) * 2 / 3 } }

    /// The content key of the tier. Throws `licenseDevice` or `licenseWrap`.
    func open(with deviceKey: any DeviceKey) throws -> ContentKey {
        guard deviceKey.publicKey.thumbprint == device else {
            throw CoreLockerError(.licenseDevice, "The license was issued to another device key")
        }
        return try ContentKey(try deviceKey.open(wrappedKey, info: info))
    }
}

/// What an app expects of its license. The app, its key bundle and its device key fix all of it.
struct ExpectedLicense: Sendable {
    let issuer: String
    let app: String
    let environment: AppEnvironment
    let bundle: String
    let modelVersion: Int64
    let device: String
    /// The tiers that are accepted.
    let tiers: [String]
    let offlineGrace: Int64
}

/// A license that the device may use now.
struct VerifiedLicense: Sendable {
    enum State: String, Sendable {
        /// In its time.
        case valid
        /// In its time, and it is time to renew.
        case renew
        /// Ended, within the app's grace for devices that cannot reach the service.
        case grace
    }

    let license: License
    let state: State

    /// Checks all that a device can check before it opens the content key. Throws one of the `license-` codes.
    init(_ token: String, keys: [PublicKey], expected: ExpectedLicense, clock: DeviceClock) throws {
        let license = try License(token, keys: keys)
        func require(_ holds: Bool, _ code: ErrorCode, _ message: String) throws(CoreLockerError) {
            guard holds else { throw CoreLockerError(code, message) }
        }
        try require(license.issuer == expected.issuer, .licenseIssuer, "Another service issued the license")
        try require(license.app == expected.app, .licenseAudience, "The license is for another app")
        try require(
            license.environment == expected.environment, .licenseEnvironment, "The license is of another environment")
        try require(license.device == expected.device, .licenseDevice, "The license is for another device key")
        try require(license.bundle == expected.bundle, .licenseBundle, "The license is for another key bundle")
        try require(
            license.modelVersion == expected.modelVersion, .licenseModelVersion,
            "The license is for model version \(license.modelVersion), not \(expected.modelVersion)")
        try require(expected.tiers.contains(license.tier), .licenseTier, "The license is for another tier")

        let now = try clock.now(for: license, offlineGrace: expected.offlineGrace)
        try require(now >= license.notBefore, .licenseNotYetValid, "The license is not valid yet")
        self.license = license
        if let end = license.expiresAt, now >= end {
            try require(now < end + expected.offlineGrace, .licenseExpired, "The license has ended")
            state = .grace
        } else if let renewAt = license.renewAt, now >= renewAt {
            state = .renew
        } else {
            state = .valid
        }
    }
}
