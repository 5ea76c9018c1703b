import CoreLockerExecuTorch
import ExecuTorch

/// An app that runs an ExecuTorch program, as the README shows it.
@MainActor
final class Scorer {
    var module: Module?

    func scores(_ locker: CoreLocker, pixels: [Float]) async throws -> [Float] {
        let module = try await locker.module(named: "Classifier")
        try module.load("forward")
        self.module = module
        let output: Tensor<Float> = try module.forward(Tensor<Float>(pixels, shape: [1, 3, 32, 32]))
        return output.scalars()
    }

    func withExternalWeights(_ locker: CoreLocker) async throws {
        module = try await locker.module(named: "Classifier", data: "Weights")
    }
}
