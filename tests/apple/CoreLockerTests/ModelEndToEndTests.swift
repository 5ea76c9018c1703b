import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerCoreML

/// From a purchase to what a model computes; `tests/apple/end_to_end.py` makes the models, and evaluates what is restored for Core ML.
@Suite(.serialized, .enabled(if: EndToEndWorld.isThere, "tests/apple/end_to_end.py runs these"))
struct ModelEndToEndTests {
    private typealias Device = EndToEndWorld.Device

    private let world: EndToEndWorld

    init() throws { world = try EndToEndWorld() }

    @Test(arguments: ["fashion_fp32.pte", "fashion_int8.pte"])
    func executorchRunsWhatIsRestored(_ name: String) async throws {
        let (device, bundle, runner) = (try Device(world), try world.bundle("demo/fashion.clkey"), try Runner(world))
        let (file, original) = (world.file("demo/\(name)"), try runner.run(world.file("original/demo/\(name)")))
        let locked = try runner.run(file)
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase(name))
        let restored = try runner.run(try await device.client.restore(file, with: bundle))
        #expect(restored.map(\.bitPattern) == original.map(\.bitPattern))
        let free = try runner.run(try await device.client.restore(file, with: bundle, tier: "free"))
        #expect(free.map(\.bitPattern) == locked.map(\.bitPattern))
        let plus = try runner.run(try await device.client.restore(file, with: bundle, tier: "plus"))

        let (before, between, after) = (runner.accuracy(locked), runner.accuracy(plus), runner.accuracy(restored))
        print("\(name): \(before) % locked, \(between) % plus, \(after) % restored")
        #expect(before < 40 && before < between && between < after && after > 80)
    }

    @Test func coreMLIsGivenTheOriginalsWeights() async throws {
        let (device, bundle) = (try Device(world), try world.bundle("demo/fashion.clkey"))
        let locked = try CoreMLPackage(world.file("demo/fashion.mlpackage"))
        let original = try CoreMLPackage(world.file("original/demo/fashion.mlpackage"))
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("fashion.mlpackage"))
        let weights = try #require(locked.weights.first)
        let restored = try await device.client.restore(weights.url, with: bundle).data
        #expect(try restored == Data(contentsOf: try #require(original.weights.first).url))
        #expect(try Data(contentsOf: locked.specification) == Data(contentsOf: original.specification))
        try restored.write(to: world.file("results/weight.bin"))
    }

    /// The signs of each encoding come back, in programs and in packages.
    @Test func signsComeBack() async throws {
        let (device, bundle) = (try Device(world), try world.bundle("signs/signs.clkey"))
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("signs"))
        #expect(bundle.artifacts.count == 9)
        for artifact in bundle.artifacts {
            for file in artifact.files {
                let path = file.path == artifact.name ? artifact.name : "\(artifact.name)/\(file.path)"
                let original = try world.data("original/signs/\(path)")
                #expect(try world.data("signs/\(path)") != original, "\(path)")
                let restored = try await device.client.restore(world.file("signs/\(path)"), with: bundle, check: .always)
                #expect(restored.data == original, "\(path)")
            }
        }
    }

    /// ExecuTorch, in a library that the test loads (`tests/apple/runner`).
    private struct Runner {
        private typealias RunFile = @convention(c) (
            UnsafePointer<CChar>, UnsafeMutablePointer<Float>, Int, UnsafeMutablePointer<Float>
        ) -> Int32
        private typealias RunRestored = @convention(c) (
            OpaquePointer, UnsafeMutablePointer<Float>, Int, UnsafeMutablePointer<Float>
        ) -> Int32

        private static let pixels = 28 * 28
        private static let classes = 10

        private let runFile: RunFile
        private let runRestored: RunRestored
        private let images: [Float]
        private let labels: [UInt8]

        init(_ world: EndToEndWorld) throws {
            guard let library = dlopen(world.file("librunner.so").path, RTLD_NOW | RTLD_LOCAL) else {
                throw CoreLockerError(.fileAccess, String(cString: dlerror()))
            }
            runFile = unsafeBitCast(try #require(dlsym(library, "runner_file")), to: RunFile.self)
            runRestored = unsafeBitCast(try #require(dlsym(library, "runner_restored")), to: RunRestored.self)
            images = try world.data("images.f32").withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
            labels = [UInt8](try world.data("labels.u8"))
            try #require(images.count == labels.count * Self.pixels)
        }

        /// The scores of all images, by ExecuTorch alone.
        func run(_ file: URL) throws -> [Float] { try scores { runFile(file.path, $0, labels.count, $1) } }

        func run(_ file: RestoredFile) throws -> [Float] { try scores { runRestored(file.unsafeHandle, $0, labels.count, $1) } }

        private func scores(_ work: (UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>) -> Int32) throws -> [Float] {
            var (images, scores) = (images, [Float](repeating: 0, count: labels.count * Self.classes))
            let error = work(&images, &scores)
            try #require(error == 0, "ExecuTorch's error \(error)")
            return scores
        }

        /// How many images of a hundred have the highest score at their label.
        func accuracy(_ scores: [Float]) -> Double {
            let right = labels.indices.count { image in
                let own = scores[image * Self.classes..<(image + 1) * Self.classes]
                return own.indices.max { own[$0] < own[$1] } == own.startIndex + Int(labels[image])
            }
            return 100 * Double(right) / Double(labels.count)
        }
    }
}
