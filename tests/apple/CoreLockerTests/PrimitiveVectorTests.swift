import Foundation
import Testing

@testable import CoreLocker

#if canImport(CryptoKit)
    import CryptoKit
#else
    import COpenSSL
#endif

/// The vectors of others for the primitives, and the bytes that attestations cover.
@Suite struct PrimitiveVectorTests {
    /// RFC 9180's own values, as far as this suite's. Its plaintexts have associated data and ours have none, so the ciphertext is made anew.
    @Test func opensAsRFC9180Says() throws {
        let vectors = try #require(try Vectors.file("hpke/rfc9180_p256_sha256_aes256gcm.json").array)
        #expect(vectors.count == 4)
        for vector in vectors {
            let publicKey = try #require(PublicKey(x963: try vector.hex("pkRm")))
            let key = try #require(SoftwareDeviceKey(scalar: try vector.hex("skRm"), publicKey: publicKey))
            let sealed = try seal(Data("a secret".utf8), key: try vector.hex("key"), nonce: try vector.hex("base_nonce"))
            let found = outcome {
                let opened = try key.open(try vector.hex("enc") + sealed, info: try vector.hex("info"))
                #expect(opened == Data("a secret".utf8))
            }
            // The other modes authenticate the sender, which this protocol does not.
            #expect(found == (vector["mode"] == .integer(0) ? "ok" : "license-wrap"))
        }
    }

    @Test func takesThePointsThatWycheproofCallsValid() throws {
        let groups = try #require(try Vectors.file("hpke/wycheproof_ecdh_secp256r1_ecpoint_test.json")["testGroups"]?.array)
        let cases = groups.flatMap { $0["tests"]?.array ?? [] }
        #expect(cases.count > 300)
        for test in cases {
            let point = try test.hex("public")
            // A license holds uncompressed points alone.
            let valid = try test.text("result") != "invalid" && point.count == 65
            #expect((PublicKey(x963: point) != nil) == valid, "\(test["comment"]?.text ?? "")")
        }
    }

    /// `apple-app-attest` and `development` cover the same bytes, `android-key` others.
    @Test func requestsHaveOneForm() throws {
        let vectors = try #require(try Vectors.file("attestation/made/canonical_requests.json").array)
        #expect(vectors.count >= 3)
        for vector in vectors {
            let device = try #require(vector["device_key"].flatMap(PublicKey.init(jwk:)))
            let request = AttestedRequest(
                challenge: try vector.text("challenge"), app: try vector.text("app"), bundle: try vector.text("bundle"),
                tier: try vector.text("tier"), device: device.thumbprint, purchaseToken: try vector.text("purchase_token"))
            for format in ["apple-app-attest", "development"] {
                let expected = try #require(vector["attestations"]?[JSON.Name(format)])
                #expect(try request.canonical() == Data(try expected.text("canonical").utf8), "\(vector.name)")
                #expect(try request.digest() == expected.hex("sha256"), "\(vector.name)")
            }
        }
    }

    /// AES-256-GCM: ciphertext and tag.
    private func seal(_ plaintext: Data, key: Data, nonce: Data) throws -> Data {
        #if canImport(CryptoKit)
            let box = try AES.GCM.seal(plaintext, using: SymmetricKey(data: key), nonce: AES.GCM.Nonce(data: nonce))
            return box.ciphertext + box.tag
        #else
            let context = try #require(EVP_CIPHER_CTX_new())
            defer { EVP_CIPHER_CTX_free(context) }
            var (output, tag, length) = ([UInt8](repeating: 0, count: plaintext.count), [UInt8](repeating: 0, count: 16), Int32(0))
            try #require(EVP_EncryptInit_ex2(context, EVP_aes_256_gcm(), [UInt8](key), [UInt8](nonce), nil) == 1)
            try #require(EVP_EncryptUpdate(context, &output, &length, [UInt8](plaintext), Int32(plaintext.count)) == 1)
            try #require(EVP_EncryptFinal_ex(context, nil, &length) == 1)
            try #require(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, &tag) == 1)
            return Data(output + tag)
        #endif
    }
}
