#if DEBUG
    import Foundation

    /// Vouches for a simulator's or a test's software key: a key under the publisher's development root. It proves nothing of a device, exists in debug
    /// builds alone, and a service in production refuses it (`docs/formats.md`, Attested request and proofs).
    ///
    /// ```swift
    /// let attester = try DevelopmentIdentity(pem: String(contentsOf: url, encoding: .utf8))
    /// ```
    public struct DevelopmentIdentity: Attester {
        private static let domain = Data("corelocker development attestation v1".utf8) + Data([0])

        private let key: DevelopmentSigningKey
        private let certificate: Data

        /// - Parameter pem: the key (PKCS #8) and its certificate, as `corelocker device init` writes them to `attestation.pem`.
        /// - Throws: ``CoreLockerError`` with `attestationEvidence`.
        public init(pem: String) throws {
            guard let key = Self.block("PRIVATE KEY", pem).flatMap(DevelopmentSigningKey.init(pem:)),
                let certificate = Self.block("CERTIFICATE", pem).flatMap(Self.der)
            else { throw CoreLockerError(.attestationEvidence, "This is no development identity: a key and a certificate in PEM") }
            (self.key, self.certificate) = (key, certificate)
        }

        public func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] {
            guard let signature = key.sign(Self.domain + digest) else {
                throw CoreLockerError(.attestationEvidence, "The development identity cannot sign")
            }
            return [
                "format": "development", "certificate": Base64URL.encode(certificate),
                "signature": Base64URL.encode(signature),
            ]
        }

        private static func block(_ label: String, _ pem: String) -> String? {
            let (begin, end) = ("-----BEGIN \(label)-----", "-----END \(label)-----")
            guard let start = pem.range(of: begin), let stop = pem.range(of: end, range: start.upperBound..<pem.endIndex)
            else { return nil }
            return String(pem[start.lowerBound..<stop.upperBound]) + "\n"
        }

        private static func der(_ pem: String) -> Data? {
            let lines = pem.split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("-----") }
            return Data(base64Encoded: lines.joined())
        }
    }
#endif
