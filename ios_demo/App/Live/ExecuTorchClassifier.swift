import CoreLockerExecuTorch
import DemoCore

/// Runs an ExecuTorch program with one tensor as input and one as output. A module is not for several tasks at once.
actor ExecuTorchClassifier: Classifier {
    private let module: Module

    init(_ module: sending Module) { self.module = module }

    /// The first call loads the program's method.
    func scores(_ image: GrayImage) throws -> [Float] {
        let scores: Tensor<Float> = try module.forward(Tensor<Float>(image.input, shape: [1, 1, GrayImage.side, GrayImage.side]))
        return scores.scalars()
    }
}
