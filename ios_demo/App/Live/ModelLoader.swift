import CoreLockerCoreML
import CoreLockerExecuTorch
import CoreML
import DemoCore
import Foundation

/// Loads the demo's model for either runtime: as it ships, or by way of the license.
struct ModelLoader: ClassifierLoader {
    private static let name = "fashion"

    let locker: CoreLocker

    func load(_ runtime: ModelRuntime, _ version: ModelVersion) async throws -> any Classifier {
        switch (runtime, version) {
        case (.coreML, .locked): try CoreMLClassifier(try await Self.shippedModel())
        case (.coreML, .unlocked): try CoreMLClassifier(try await locker.model(named: Self.name, loading: Self.loading))
        case (.execuTorch, .locked): try ExecuTorchClassifier(Self.shippedProgram())
        case (.execuTorch, .unlocked): ExecuTorchClassifier(try await locker.module(named: Self.name))
        }
    }

    /// Out of memory where the system can; in the older ones by way of a copy that is removed at once.
    private static var loading: CoreMLLoading {
        if #available(iOS 18, *) { .inMemory } else { .diskExposed }
    }

    private static func shippedModel() async throws -> sending MLModel {
        let compiled = try await MLModel.compileModel(at: try resource("mlpackage"))
        defer { try? FileManager.default.removeItem(at: compiled) }
        return try await MLModel.load(contentsOf: compiled, configuration: MLModelConfiguration())
    }

    private static func shippedProgram() throws -> sending Module {
        Module(filePath: try resource("pte").path, dataFilePaths: [], loadMode: .mmap)
    }

    private static func resource(_ kind: String) throws -> URL {
        guard let url = Bundle.main.url(forResource: name, withExtension: kind, subdirectory: "Models") else {
            throw CoreLockerError(.fileAccess, "The app does not hold \(name).\(kind)")
        }
        return url
    }
}
