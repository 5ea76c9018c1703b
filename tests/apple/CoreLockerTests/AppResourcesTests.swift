import Foundation
import Testing

@testable import CoreLocker

@Suite struct AppResourcesTests {
    /// A folder like an app's, with the files of `names`.
    private func withApp(_ names: [String], _ body: (URL) throws -> Void) throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        let bundle = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "two-artifacts" })
        for name in names {
            let url = folder.appendingPathComponent(name)
            try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            switch url.pathExtension {
            case "clkey": try bundle.base64("bundle").write(to: url)
            case "json": try configuration(publisher: try bundle.text("publisher")).write(to: url)
            default: try Data().write(to: url)
            }
        }
        try body(folder)
    }

    private func configuration(publisher: String) throws -> Data {
        let vector = try #require(try Vectors.cases(try Vectors.file("app_config.json")).first { $0.name == "minimal" })
        var members = try #require(try JSONReader.read(try vector.base64("file")).object)
        members["publisher"] = .text(publisher)
        var random = Seeded(1)
        return Data(random.spelled(.object(members)).utf8)
    }

    @Test func findsWhatIsThere() throws {
        try withApp(["corelocker.json", "Models/demo.clkey"]) { folder in
            let resources = try AppResources(folder: folder)
            let bundle = try resources.bundle(of: nil)
            #expect(bundle.model == "vectors/small")
            #expect(try resources.bundle(of: "vectors/small").id == bundle.id)
            #expect(outcome { _ = try resources.bundle(of: "another") } == "bundle-mismatch")
            let name = bundle.artifacts[0].name
            #expect(outcome { _ = try resources.artifact(named: [name]) } == "file-access")
            #expect(outcome { _ = try resources.artifact(named: ["other.pte"]) } == "bundle-mismatch")
            try Data().write(to: folder.appendingPathComponent("Models/\(name)"))
            let found = try resources.artifact(named: ["other.pte", name])
            #expect(found.url.lastPathComponent == name)
            #expect(found.artifact == bundle.artifacts[0])
        }
    }

    private func program(_ files: [String], format: String = "executorch") -> BundledArtifact {
        BundledArtifact(name: "m.pte", format: format, files: files.map { BundledFile(path: $0, size: 1, sha256: Data()) })
    }

    @Test func externalWeightsBelongToTheirProgram() throws {
        #expect(try program(["m.pte"]).externalWeights() == nil)
        #expect(try program(["m.pte", "m.ptd"]).externalWeights() == "m.ptd")
        #expect(try program(["m.pte", "m.ptd"]).externalWeights(named: "m") == "m.ptd")
        #expect(try program(["m.pte", "a.ptd", "b.ptd"]).externalWeights(named: "b") == "b.ptd")
        #expect(outcome { _ = try program(["m.pte", "a.ptd", "b.ptd"]).externalWeights() } == "bundle-mismatch")
        #expect(outcome { _ = try program(["m.pte"]).externalWeights(named: "m") } == "bundle-mismatch")
        #expect(program(["m.pte", "m.ptd"]).names == ["m.pte", "m.ptd"])
        #expect(program(["weights.bin"], format: "coreml").names == ["m.pte"], "a package's files do not lie in the app's folder")
    }

    /// A key bundle without sections, for a program with external weights.
    private func bundleWithWeights() throws -> Data {
        let vector = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "no-sections" })
        let bundle = try vector.base64("bundle")
        let length = Int(bundle[8]) | Int(bundle[9]) << 8
        var members = try #require(try JSONReader.read(Data(bundle[12..<12 + length])).object)
        members["publisher_key"] = TestKey.jwk
        members["publisher"] = .text(try #require(PublicKey(jwk: TestKey.jwk)).thumbprint)
        let files = ["m.pte", "m.ptd"].map { name -> JSON in
            .object(["path": .text(name), "size": .integer(1), "sha256": .text(String(repeating: "0", count: 64))])
        }
        members["artifacts"] = .array([.object(["name": .text("m.pte"), "format": .text("executorch"), "files": .array(files)])])
        var random = Seeded(1)
        let header = Data(random.spelled(.object(members)).utf8)
        let signed = Data("CLKEYB02".utf8) + withUnsafeBytes(of: UInt32(header.count).littleEndian) { Data($0) } + header
        return signed + (try TestKey.sign(signed))
    }

    @Test func findsTheWeightsOfAProgram() throws {
        try withApp(["corelocker.json"]) { folder in
            let publisher = try #require(PublicKey(jwk: TestKey.jwk)).thumbprint
            try configuration(publisher: publisher).write(to: folder.appendingPathComponent("corelocker.json"))
            try bundleWithWeights().write(to: folder.appendingPathComponent("m.clkey"))
            let resources = try AppResources(folder: folder)
            #expect(outcome { _ = try resources.artifact(named: ["m.ptd"]) } == "file-access")
            #expect(outcome { _ = try resources.artifact(named: ["n.ptd"]) } == "bundle-mismatch")
            try Data().write(to: folder.appendingPathComponent("m.ptd"))
            let found = try resources.artifact(named: ["m.ptd"])
            #expect(found.artifact.name == "m.pte" && found.url.lastPathComponent == "m.ptd")
        }
    }

    @Test func whatIsMissingOrDoubleIsRefused() throws {
        try withApp(["demo.clkey"]) { #expect(outcome { [url = $0] in _ = try AppResources(folder: url) } == "file-access") }
        try withApp(["corelocker.json"]) { folder in
            let resources = try AppResources(folder: folder)
            #expect(outcome { _ = try resources.bundle(of: nil) } == "bundle-mismatch")
        }
        try withApp(["corelocker.json", "a.clkey", "b.clkey"]) { folder in
            let resources = try AppResources(folder: folder)
            #expect(outcome { _ = try resources.bundle(of: nil) } == "bundle-mismatch")
        }
        try withApp(["corelocker.json", "a.clkey"]) { folder in
            try Data("CLKEYB02".utf8).write(to: folder.appendingPathComponent("a.clkey"))
            #expect(outcome { _ = try AppResources(folder: folder) } == "bundle-truncated")
        }
    }
}
