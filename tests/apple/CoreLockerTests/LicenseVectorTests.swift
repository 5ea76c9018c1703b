import Foundation
import Testing

@testable import CoreLocker

@Suite struct LicenseVectorTests {
    @Test func thumbprints() throws {
        for vector in try Vectors.cases(try Vectors.file("jwk_thumbprint.json")) {
            let key = vector["jwk"].flatMap(PublicKey.init(jwk:))
            if try vector.text("expect") == "ok" {
                try expectEqual(key?.thumbprint, vector.text("thumbprint"), vector.name)
            } else {
                #expect(key == nil, "\(vector.name)")
            }
        }
    }

    @Test func wrappedKeys() throws {
        let file = try Vectors.file("hpke_wrap.json")
        let key = try deviceKey(file["device_key"])
        for vector in try Vectors.cases(file) {
            let found = outcome {
                if let canonical = vector["canonical"]?.text {
                    let claims = try JSONReader.read(Data(try vector.text("claims").utf8)).object ?? [:]
                    let own = try CanonicalJSON.encode(.object(claims.filter { $0.key != "wk" }))
                    #expect(String(decoding: own, as: UTF8.self) == canonical, "\(vector.name)")
                }
                let sealed = Base64URL.decode(try vector.text("wk")) ?? Data()
                let opened = try key.open(sealed, info: try vector.hex("info"))
                try expectEqual(opened, vector.hex("content_key"), vector.name)
            }
            try expectEqual(found, vector.text("expect"), vector.name)
        }
    }

    @Test func tierKeys() throws {
        for vector in try Vectors.cases(try Vectors.file("tier_keys.json")) {
            let bundle = try #require(UUID(uuidString: try vector.text("bundle")))
            let key = try ContentKey(try vector.hex("content_key"))
            let keys = key.keys(ofTier: Int(try vector.number("tiers")) - 1, bundle: bundle)
            let expected = try #require(vector["keys"]?.array).compactMap(\.text)
            #expect(keys == expected.compactMap { Data(lowercaseHex: $0) }, "\(vector.name)")
        }
    }

    @Test func licenses() throws {
        let file = try Vectors.file("license.json")
        let key = try deviceKey(file["device_key"])
        let keys = try #require(file["service_keys"]?.array).compactMap(PublicKey.init(jwk:))
        for vector in try Vectors.cases(file) {
            let expected = try #require(vector["expected"])
            let clock = try #require(vector["clock"])
            let store = MemoryStore(mark: try mark(clock["mark"]))
            let reading = ClockReading(
                wall: try clock.number("wall"), ticks: try clock.number("ticks"), boot: try clock.text("boot"))
            var state: String?
            var contentKey: Data?
            let found = outcome {
                let verified = try VerifiedLicense(
                    try vector.text("token"), keys: keys, expected: try self.expectation(expected, key),
                    clock: DeviceClock(store: store, read: { reading }))
                contentKey = try verified.license.open(with: key).bytes
                state = verified.state.rawValue
            }
            try expectEqual(found, vector.text("expect"), vector.name)
            if found == "ok" {
                try expectEqual(state, vector.text("state"), vector.name)
                try expectEqual(contentKey, vector.hex("content_key"), vector.name)
            }
            if let after = vector["mark_after"] { try expectEqual(store.mark(), mark(after), vector.name) }
        }
    }

    private func mark(_ json: JSON?) throws -> ClockMark? {
        guard let json, json.isPresent else { return nil }
        return ClockMark(time: try json.number("time"), ticks: try json.number("ticks"), boot: try json.text("boot"))
    }

    private func expectation(_ json: JSON, _ key: SoftwareDeviceKey) throws -> ExpectedLicense {
        ExpectedLicense(
            issuer: try json.text("issuer"), app: try json.text("app"),
            environment: try #require(AppEnvironment(rawValue: try json.text("environment"))),
            bundle: try json.text("bundle"), modelVersion: try json.number("model_version"),
            device: key.publicKey.thumbprint,
            tiers: try #require(json["tiers"]?.array).compactMap(\.text), offlineGrace: try json.number("offline_grace"))
    }

    @Test func appConfigurations() throws {
        for vector in try Vectors.cases(try Vectors.file("app_config.json")) {
            var read: AppConfiguration?
            let found = outcome { read = try AppConfiguration(try vector.base64("file")) }
            expectEqual(found, try vector.text("expect"), vector.name)
            guard let read, let values = vector["values"] else { continue }
            expectEqual(read.service.absoluteString, try values.text("service"), vector.name)
            expectEqual(read.issuer, try values.text("issuer"), vector.name)
            expectEqual(read.app, try values.text("app"), vector.name)
            expectEqual(read.environment.rawValue, try values.text("environment"), vector.name)
            expectEqual(read.publisher, try values.text("publisher"), vector.name)
            expectEqual(read.offlineGrace, try values.number("offline_grace"), vector.name)
            expectEqual(
                read.licenseKeys.map(\.thumbprint), try #require(values["license_keys"]?.array).compactMap(\.text),
                vector.name)
        }
    }

    @Test func deviceKeyProofs() throws {
        let file = try Vectors.file("device_key_proof.json")
        let key = try deviceKey(file["device_key"])
        for vector in try Vectors.cases(file) {
            var proof: Data?
            let found = outcome {
                let sealed = Base64URL.decode(try vector.text("sealed")) ?? Data()
                proof = try DeviceKeyProof.prove(sealed, digest: try vector.hex("digest"), deviceKey: key)
            }
            switch try vector.text("expect") {
            case "ok": try expectEqual(proof, Base64URL.decode(vector.text("proof")), vector.name)
            case "license-wrap": #expect(found == "license-wrap", "\(vector.name)")
            // What a service refuses is none of a device's verdicts; but it never makes such a proof.
            default:
                let refused = Base64URL.decode(try vector.text("proof"))
                #expect(proof == nil || proof != refused, "\(vector.name)")
            }
        }
    }
}
