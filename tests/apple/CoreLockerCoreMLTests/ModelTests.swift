#if canImport(CoreML)
    import CoreML
    import Foundation
    import Testing

    @testable import CoreLocker
    @testable import CoreLockerCoreML

    /// What Core ML itself makes of a package in memory, in a simulator or on a Mac.
    @Suite struct ModelTests {
        private let package = Vectors.tests.appendingPathComponent("data/coreml/unified_palette_4bit.mlpackage")

        private func configuration() -> MLModelConfiguration {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = .cpuOnly
            return configuration
        }

        /// The outputs for an input of halves, by name.
        private func run(_ model: MLModel) throws -> [String: [Float]] {
            var inputs: [String: Any] = [:]
            for (name, input) in model.modelDescription.inputDescriptionsByName {
                let shape = try #require(input.multiArrayConstraint).shape.map(\.intValue)
                inputs[name] = MLFeatureValue(multiArray: MLMultiArray(MLShapedArray<Float>(repeating: 0.5, shape: shape)))
            }
            let answer = try model.prediction(from: try MLDictionaryFeatureProvider(dictionary: inputs))
            return try model.modelDescription.outputDescriptionsByName.keys.reduce(into: [:]) {
                let array = try #require(answer.featureValue(for: $1)?.multiArrayValue)
                $0[$1] = MLShapedArray<Float>(converting: array).scalars
            }
        }

        @available(iOS 18, macOS 15, *)
        @Test func computesTheSameOutOfMemory() async throws {
            let compiled = try await MLModel.compileModel(at: package)
            defer { try? FileManager.default.removeItem(at: compiled) }
            let plain = try run(try await MLModel.load(contentsOf: compiled, configuration: configuration()))
            let restored = try await RestoredPackage(package, BundledArtifact(name: "m.mlpackage", format: "coreml", files: [])) { _ in
                throw CoreLockerError(.argument, "nothing of it is locked")
            }
            let found = try run(try await restored.load(configuration()))
            #expect(!plain.isEmpty && plain.keys == found.keys)
            for (name, values) in plain {
                #expect(zip(values, found[name] ?? []).allSatisfy { abs($0 - $1) < 1e-3 }, "\(name)")
            }
        }

        /// A compiled model in a copy, as `.diskExposed` uses it.
        @Test func computesTheSameInACopy() async throws {
            let model = Vectors.tests.appendingPathComponent("data/coreml/unified_palette_4bit.mlmodelc")
            let copy = try ExposedCopy(of: model)
            defer { copy.remove() }
            let plain = try run(try await MLModel.load(contentsOf: model, configuration: configuration()))
            #expect(try run(try await MLModel.load(contentsOf: copy.url, configuration: configuration())) == plain)
        }
    }
#endif
