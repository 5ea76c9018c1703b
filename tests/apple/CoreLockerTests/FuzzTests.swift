import Foundation
import Testing

@testable import CoreLocker

/// Every reader under damaged input: an error of this library with a code, or a value; never a crash, never another error.
@Suite struct FuzzTests {
    private func expectTyped(_ data: Data, _ work: () throws -> Void) {
        do {
            try work()
        } catch is CoreLockerError {
            return
        } catch {
            Issue.record("\(error) for \(data.base64EncodedString())")
        }
    }

    private func bundles() throws -> [Data] {
        try Vectors.cases(try Vectors.file("bundle.json")).filter { $0["expect"]?.text == "ok" }.map { try $0.base64("bundle") }
    }

    @Test func keyBundles() throws {
        var random = Seeded(10)
        let bundles = try bundles()
        for _ in 0..<3000 {
            let data = random.mutated(random.pick(bundles))
            expectTyped(data) { try openSections(KeyBundle(data)) }
        }
    }

    /// Damage behind the signature: the publisher's own key signs it, so that the reader of the header sees it.
    @Test func signedHeaders() throws {
        var random = Seeded(11)
        var opened = 0
        let headers = try bundles().map { bundle -> Data in
            let length = Int(bundle[8]) | Int(bundle[9]) << 8
            var members = try #require(try JSONReader.read(Data(bundle[12..<12 + length])).object)
            members["publisher_key"] = TestKey.jwk
            members["publisher"] = .text(try #require(PublicKey(jwk: TestKey.jwk)).thumbprint)
            return Data(random.spelled(.object(members)).utf8)
        }
        for round in 0..<1500 {
            let header = random.pick(headers)
            let data = try sign(round < 20 ? header : random.mutated(header)) + random.bytes(2000)
            expectTyped(data) {
                do {
                    try openSections(KeyBundle(data))
                } catch let error as CoreLockerError where error.code == .bundleTrailing || error.code == .bundleContentKey {
                    opened += 1
                }
            }
        }
        #expect(opened >= 20)
    }

    private func sign(_ header: Data) throws -> Data {
        let length = withUnsafeBytes(of: UInt32(header.count).littleEndian) { Data($0) }
        let signed = Data("CLKEYB02".utf8) + length + header
        return signed + (try TestKey.sign(signed))
    }

    private func openSections(_ bundle: KeyBundle) throws {
        for section in bundle.header.sections { _ = try bundle.decrypt(section, contentKey: Data(count: 32)) }
    }

    @Test func licenses() throws {
        var random = Seeded(12)
        let file = try Vectors.file("license.json")
        let keys = try #require(file["service_keys"]?.array).compactMap(PublicKey.init(jwk:))
        let tokens = try Vectors.cases(file).compactMap { $0["token"]?.text }
        for _ in 0..<3000 {
            let data = random.mutated(Data(random.pick(tokens).utf8))
            expectTyped(data) { _ = try License(String(decoding: data, as: UTF8.self), keys: keys) }
        }
    }

    /// Claims that are damaged and signed all the same.
    @Test func signedClaims() throws {
        var random = Seeded(13)
        let key = try #require(PublicKey(jwk: TestKey.jwk))
        let head = Base64URL.encode(Data(#"{"alg":"ES256","typ":"corelocker-license+jwt"}"#.utf8))
        let claims = try Vectors.cases(try Vectors.file("license.json")).filter { $0["expect"]?.text == "ok" }.compactMap {
            $0["token"]?.text?.split(separator: ".").dropFirst().first.flatMap { Base64URL.decode(String($0)) }
        }
        var read = 0
        for round in 0..<2000 {
            let own = random.pick(claims)
            let signed = "\(head).\(Base64URL.encode(round < 20 ? own : random.mutated(own)))"
            let token = "\(signed).\(Base64URL.encode(try TestKey.sign(Data(signed.utf8))))"
            expectTyped(Data(token.utf8)) {
                let license = try License(token, keys: [key])
                _ = license.renewAt
                read += 1
            }
        }
        #expect(read >= 20)
    }

    @Test func appConfigurations() throws {
        var random = Seeded(14)
        let files = try Vectors.cases(try Vectors.file("app_config.json")).map { try $0.base64("file") }.filter { $0.count < 4096 }
        for _ in 0..<3000 {
            let data = random.mutated(random.pick(files))
            expectTyped(data) {
                let configuration = try AppConfiguration(data)
                #expect(configuration.service.host() != nil || configuration.environment == .development)
            }
        }
    }

    @Test func problems() throws {
        var random = Seeded(15)
        let problem =
            #"{"type":"urn:corelocker:problem:device-limit","title":"Full","status":409,"detail":"d","request_id":"aa","retry_at":5}"#
        for _ in 0..<2000 {
            let data = random.mutated(Data(problem.utf8))
            expectTyped(data) { _ = try ServiceClient.problem(data) }
        }
    }

    @Test func clockMarks() throws {
        var random = Seeded(16)
        let mark = ClockMark(time: 1_800_000_000, ticks: 5, boot: "boot").json
        for _ in 0..<2000 {
            let data = random.mutated(mark)
            expectTyped(data) { _ = try ClockMark(json: data) }
        }
    }

    @Test func developmentIdentities() {
        var random = Seeded(17)
        let pem =
            "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
        for _ in 0..<500 {
            let data = random.mutated(Data(pem.utf8))
            expectTyped(data) { _ = try DevelopmentIdentity(pem: String(decoding: data, as: UTF8.self)) }
        }
    }

    /// Locked files and sections that are damaged. With the full check the result is the publisher's file or an error.
    @Test func restores() throws {
        var random = Seeded(18)
        var whole = 0
        for vector in try Vectors.cases(try Vectors.file("bundle.json")) where vector["expect"]?.text == "ok" {
            for restore in vector["restores"]?.array ?? [] where restore["expect"]?.text == "ok" {
                for round in 0..<12 {
                    let data = try vector.base64("bundle")
                    whole += try self.restore(restore, round == 0 ? data : random.mutated(data), random.next() | 1, locked: round % 2 == 0)
                }
            }
        }
        #expect(whole > 10)
    }

    /// Restores once, the locked file damaged or not. 1 when the file was whole.
    private func restore(_ expected: JSON, _ bundle: Data, _ seed: UInt64, locked: Bool) throws -> Int {
        var random = Seeded(seed)
        var whole = 0
        let original = try expected.base64("locked")
        let file = locked ? original : random.mutated(original)
        let key = try ContentKey(try expected.hex("content_key"))
        let tier = Int(try expected.number("tier"))
        try withTemporaryFile("model.bin", file) { url in
            expectTyped(bundle) {
                let opened = try KeyBundle(bundle)
                let restored = try opened.restore(url, tier: tier, contentKey: key, keyTier: tier, check: .always)
                let known = opened.artifacts.flatMap(\.files).contains { $0.sha256 == Cryptography.sha256(restored.data) }
                #expect(known == (tier == 0) || restored.data == Data(base64Encoded: expected["restored"]?.text ?? ""))
                whole = 1
            }
        }
        return whole
    }
}
