import Foundation

/// Shows again that a device holds its device key, without a signature (`docs/formats.md`, Attested request and proofs).
enum DeviceKeyProof {
    private static let info = Data("corelocker proof v1".utf8)

    /// The proof, 32 bytes: HMAC-SHA256 of the request's digest under the secret that is sealed to the device key. Throws `licenseWrap`.
    static func prove(_ sealed: Data, digest: Data, deviceKey: any DeviceKey) throws -> Data {
        Cryptography.hmac(digest, key: try deviceKey.open(sealed, info: info))
    }

    /// The `attestation` member with the proof. Throws `serviceProtocol` when the service has sealed nothing.
    static func evidence(_ sealed: String?, digest: Data, deviceKey: any DeviceKey) throws -> [String: String] {
        guard let sealed = sealed.flatMap(Base64URL.decode), sealed.count == License.wrappedKeySize else {
            throw CoreLockerError(.serviceProtocol, "The service's answer holds no secret for the device key")
        }
        let proof = try prove(sealed, digest: digest, deviceKey: deviceKey)
        return ["format": "device-key", "proof": Base64URL.encode(proof)]
    }
}
