import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerCoreML

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

    private var package: URL {
        Vectors.folder.deletingLastPathComponent().appendingPathComponent("data/coreml/unified_palette_4bit.mlpackage")
    }

    @Test func readsAModelPackage() throws {
        let read = try CoreMLPackage(package)
        #expect(read.specification.lastPathComponent == "model.mlmodel")
        #expect(FileManager.default.fileExists(atPath: read.specification.path))
        #expect(read.weights.map(\.path) == ["weights/weight.bin"])
        #expect(read.weights.allSatisfy { FileManager.default.fileExists(atPath: $0.url.path) })
    }

    @Test func aPackageInMemoryIsNamedInEachForm() async throws {
        let parts = try CoreMLPackage(package)
        let restored = try await RestoredPackage(package, BundledArtifact(name: "m.mlpackage", format: "coreml", files: [])) { _ in
            throw CoreLockerError(.argument, "nothing of it is locked")
        }
        let weights = try Data(contentsOf: parts.weights[0].url)
        #expect(try restored.specification == Data(contentsOf: parts.specification))
        let relative = try #require(URL(string: "weights/weight.bin"))
        #expect(restored.mapping(.relative) == [relative: weights])
        #expect(restored.mapping(.file) == [URL(fileURLWithPath: "weights/weight.bin"): weights])

        let locked = BundledFile(path: "Data/com.apple.CoreML/weights/weight.bin", size: 1, sha256: Data())
        var asked: [String] = []
        await #expect(throws: CoreLockerError.self) {
            _ = try await RestoredPackage(package, BundledArtifact(name: "m.mlpackage", format: "coreml", files: [locked])) {
                asked.append($0.lastPathComponent)
                throw CoreLockerError(.restoreSize, "another")
            }
        }
        #expect(asked == ["weight.bin"])
    }

    @Test func theFirstRefusalCounts() throws {
        var refusals = FirstRefusal()
        try refusals.add(CoreLockerError(.restoreSize, "first"))
        try refusals.add(CoreLockerError(.argument, "second"))
        #expect((refusals.first as? CoreLockerError)?.code == .restoreSize)
        #expect(throws: CancellationError.self) { try refusals.add(CancellationError()) }
    }

    @Test func whatIsCompiledGoesAwayWithTheCopy() throws {
        try withTemporaryFile("m.mlpackage/Manifest.json", Data("{}".utf8)) { url in
            let files = FileManager.default
            let model = url.deletingLastPathComponent()
            let temporary = model.deletingLastPathComponent()
            let copy = try ExposedCopy(of: model, in: temporary)
            let compiled = temporary.appendingPathComponent("m.mlmodelc")
            try files.createDirectory(at: compiled, withIntermediateDirectories: false)
            try Data("w".utf8).write(to: compiled.appendingPathComponent("weight.bin"))
            let taken = try copy.take(compiled)
            #expect(taken.deletingLastPathComponent().path == copy.url.deletingLastPathComponent().path)
            #expect(files.contents(atPath: taken.appendingPathComponent("weight.bin").path) == Data("w".utf8))
            #expect(!files.fileExists(atPath: compiled.path))
            #expect(outcome { _ = try copy.take(compiled) } == "file-access")
            copy.remove()
            #expect(try files.contentsOfDirectory(atPath: temporary.path) == ["m.mlpackage"])

            _ = try ExposedCopy(of: model, in: temporary)
            #expect(try files.contentsOfDirectory(atPath: temporary.path).count == 2, "as a crash leaves it")
            ExposedCopy.removeLeftovers(in: temporary)
            #expect(try files.contentsOfDirectory(atPath: temporary.path) == ["m.mlpackage"])
        }
    }

    /// Damaged manifests give an error of this library or a package, and nothing outside of it.
    @Test func damagedManifests() throws {
        var random = Seeded(19)
        let manifest = try Data(contentsOf: package.appendingPathComponent("Manifest.json"))
        try withTemporaryFile("m.mlpackage/Data/com.apple.CoreML/model.mlmodel", Data()) { url in
            let folder = url.deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            var read = 0
            for round in 0..<500 {
                let data = round == 0 ? manifest : random.mutated(manifest)
                try data.write(to: folder.appendingPathComponent("Manifest.json"))
                let found = outcome {
                    let parts = try CoreMLPackage(folder)
                    #expect(parts.specification.standardizedFileURL.path.hasPrefix(folder.standardizedFileURL.path))
                    read += 1
                }
                #expect(["ok", "file-access"].contains(found), "\(data.base64EncodedString())")
            }
            #expect(read > 0)
        }
    }

    @Test func whatIsNoModelPackageIsRefused() throws {
        let manifest = #"{"rootModelIdentifier":"A","itemInfoEntries":{"A":{"path":"../../model.mlmodel"}}}"#
        for text in ["", "{}", manifest, manifest.replacingOccurrences(of: "../../", with: "absent/")] {
            try withTemporaryFile("m.mlpackage/Manifest.json", Data(text.utf8)) { url in
                let folder = url.deletingLastPathComponent()
                try Data().write(to: folder.appendingPathComponent("model.mlmodel"))
                #expect(outcome { _ = try CoreMLPackage(folder) } == "file-access", "\(text)")
            }
        }
    }

    @Test func anExposedCopyGoesAway() throws {
        let vector = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "restores" })
        let restore = try #require(vector["restores"]?.array?.first { $0["expect"]?.text == "ok" })
        let bundle = try KeyBundle(try vector.base64("bundle"))
        let tier = Int(try restore.number("tier"))
        try withTemporaryFile("m.mlmodelc/weights/weight.bin", try restore.base64("locked")) { url in
            let key = try ContentKey(try restore.hex("content_key"))
            let file = try bundle.restore(url, tier: tier, contentKey: key, keyTier: tier, check: .off)
            let model = url.deletingLastPathComponent().deletingLastPathComponent()
            let exposed = try ExposedCopy(of: model, in: model.deletingLastPathComponent())
            try exposed.replace("weights/weight.bin", by: file)
            #expect(exposed.url.lastPathComponent == "m.mlmodelc")
            let restored = try Data(contentsOf: exposed.url.appendingPathComponent("weights/weight.bin"))
            #expect(try restored == restore.base64("restored"))
            #expect(try Data(contentsOf: url) == restore.base64("locked"), "the model in the app stays as it is")
            #expect(outcome { try exposed.replace("absent/weight.bin", by: file) } == "file-access")
            exposed.remove()
            #expect(try FileManager.default.contentsOfDirectory(atPath: model.deletingLastPathComponent().path) == ["m.mlmodelc"])
            #expect(outcome { _ = try ExposedCopy(of: model.appendingPathComponent("absent"), in: model) } == "file-access")
            #expect(try FileManager.default.contentsOfDirectory(atPath: model.path) == ["weights"])
        }
    }
}
