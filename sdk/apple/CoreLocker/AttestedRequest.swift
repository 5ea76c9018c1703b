import Foundation

/// What proves a purchase to the service.
///
/// ```swift
/// try await locker.unlock(with: .appStore(result.jwsRepresentation))
/// ```
public struct Purchase: Sendable, Equatable {
    let members: [String: String]
    /// What the attestation covers.
    let token: String

    /// A StoreKit 2 transaction: `VerificationResult.jwsRepresentation`.
    public static func appStore(_ jwsRepresentation: String) -> Purchase {
        Purchase(members: ["provider": "app-store", "transaction": jwsRepresentation], token: jwsRepresentation)
    }

    /// A grant that the publisher's own backend signed.
    public static func grant(_ token: String) -> Purchase {
        Purchase(members: ["provider": "grant", "token": token], token: token)
    }

    var json: JSON { .object(texts: members) }
}

/// The bytes of an unlock request that its attestation vouches for (`docs/formats.md`, Attested request).
struct AttestedRequest: Sendable {
    let challenge: String
    let app: String
    /// The key bundle's id, as licenses spell it.
    let bundle: String
    let tier: String
    /// Thumbprint of the device key.
    let device: String
    /// The purchase's token, or ``renewal(of:)`` of the license's id.
    let purchaseToken: String

    /// What stands for the purchase when a license is renewed, so that a proof for the one is none for the other.
    static func renewal(of license: String) -> String { "renew:\(license)" }

    func canonical() throws(CoreLockerError) -> Data {
        let purchase = Cryptography.sha256(Data(purchaseToken.utf8))
        return try CanonicalJSON.encode(
            .object(texts: [
                "app": app, "bundle": bundle, "challenge": challenge, "device_key": device, "purchase": Base64URL.encode(purchase),
                "tier": tier, "type": "corelocker-request-v1",
            ]))
    }

    /// The 32 bytes that the attestation carries.
    func digest() throws(CoreLockerError) -> Data { Cryptography.sha256(try canonical()) }
}

/// What evidence is for.
///
/// ```swift
/// let evidence = try await attester.evidence(for: digest, step: .unlock)
/// ```
public enum AttestedStep: Sendable {
    /// What the evidence is for; an `unlock` may attest a new key, a `renewal` may not.
    case unlock, renewal
}

/// Proves the device to the service: App Attest on a phone, a development key in a simulator.
///
/// ```swift
/// let client = UnlockClient(configuration: configuration, deviceKey: key, attester: attester, store: store)
/// ```
public protocol Attester: Sendable {
    /// The `attestation` member of a request, whose bytes are `digest` (SHA-256 of the canonical request, 32 bytes).
    func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String]

    /// The service has refused the evidence of an unlock. Returns whether the next evidence differs, so that one more try makes sense.
    func hasOtherEvidence() async throws -> Bool
}

extension Attester {
    public func hasOtherEvidence() async throws -> Bool { false }
}
