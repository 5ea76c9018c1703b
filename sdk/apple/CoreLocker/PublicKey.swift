import Foundation

/// A public key on P-256.
///
/// ```swift
/// if license.device == key.publicKey.thumbprint { print("for this device") }
/// ```
public struct PublicKey: Hashable, Sendable {
    /// The uncompressed point, 65 bytes (SEC 1, 2.3.3).
    public let x963: Data

    /// A point in its uncompressed form; nil when it is none of the curve.
    public init?(x963: Data) {
        guard x963.count == 65, x963.first == 4, Cryptography.isPoint(x963) else { return nil }
        self.x963 = x963
    }

    /// The key of a public JWK (RFC 7517); nil when it is not on P-256, malformed, or holds a private part.
    init?(jwk: JSON) {
        guard jwk["kty"]?.text == "EC", jwk["crv"]?.text == "P-256", jwk["d"] == nil,
            let x = jwk["x"]?.text.flatMap(Base64URL.decode), x.count == 32,
            let y = jwk["y"]?.text.flatMap(Base64URL.decode), y.count == 32
        else { return nil }
        self.init(x963: Data([4]) + x + y)
    }

    /// The public JWK: `kty`, `crv`, `x`, `y`.
    var jwk: JSON {
        .object([
            "kty": .text("EC"), "crv": .text("P-256"),
            "x": .text(Base64URL.encode(x963.dropFirst().prefix(32))), "y": .text(Base64URL.encode(x963.suffix(32))),
        ])
    }

    /// RFC 7638 thumbprint with SHA-256, base64url: 43 characters.
    public var thumbprint: String {
        // A JWK of four texts is always inside the domain of canonical JSON.
        Base64URL.encode(Cryptography.sha256((try? CanonicalJSON.encode(jwk)) ?? Data()))
    }
}
