import Foundation

/// A JWS in compact form (RFC 7515), ES256, with an explicit type (RFC 8725, 3.11), signed by one of the trusted keys.
enum SignedToken {
    static let maxSize = 16 * 1024

    /// The claims. Throws `licenseFormat`, `licenseType` or `licenseSignature`.
    static func read(_ token: String, type: String, keys: [PublicKey]) throws(CoreLockerError) -> [JSON.Name: JSON] {
        let parts = token.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        guard token.unicodeScalars.count <= maxSize, parts.count == 3, let head = Base64URL.decode(parts[0]),
            let payload = Base64URL.decode(parts[1]), let signature = Base64URL.decode(parts[2])
        else { throw CoreLockerError(.licenseFormat, "The license is no signed token of at most \(maxSize) characters") }
        let header = try Fields(head, "the license's header", .licenseFormat)
        guard header.members["typ"] == .text(type), header.members["alg"] == .text("ES256") else {
            throw CoreLockerError(.licenseType, "The token is not of type \(type) with ES256")
        }
        guard Set(header.members.keys).isSubset(of: ["alg", "typ", "kid"]) else {
            throw header.refusal("holds more than alg, typ and kid")
        }
        let kid = header.members["kid"]
        guard kid == nil || kid?.text != nil else { throw header.refusal("kid is no text") }
        let candidates = keys.filter { kid?.text == nil || $0.thumbprint == kid?.text }
        let signed = Data("\(parts[0]).\(parts[1])".utf8)
        guard candidates.contains(where: { Cryptography.verify(signature, of: signed, key: $0) }) else {
            throw CoreLockerError(.licenseSignature, "No key that the app pins signed the license")
        }
        return try Fields(payload, "the license", .licenseFormat).members
    }
}
