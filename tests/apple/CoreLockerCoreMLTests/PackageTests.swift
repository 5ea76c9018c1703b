import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerCoreML

/// Packages in memory and in a copy; what Core ML makes of them is in `ModelTests.swift`.
@Suite struct PackageTests {
    private var package: URL {
        Vectors.tests.appendingPathComponent("data/coreml/unified_palette_4bit.mlpackage")
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
