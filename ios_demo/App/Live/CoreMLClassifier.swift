import CoreLockerCoreML
import CoreML
import DemoCore

/// Runs a Core ML model with one array as input and one as output. A model runs on one picture at a time.
actor CoreMLClassifier: Classifier {
    private let model: MLModel
    private let input: String
    private let output: String

    /// Throws `fileAccess` for a model with other inputs or outputs.
    init(_ model: sending MLModel) throws {
        let description = model.modelDescription
        guard description.inputDescriptionsByName.count == 1, let input = description.inputDescriptionsByName.keys.first,
            description.outputDescriptionsByName.count == 1, let output = description.outputDescriptionsByName.keys.first
        else { throw CoreLockerError(.fileAccess, "The model has not one input and one output") }
        (self.model, self.input, self.output) = (model, input, output)
    }

    func scores(_ image: GrayImage) throws -> [Float] {
        let array = MLMultiArray(MLShapedArray<Float>(scalars: image.input, shape: [1, 1, GrayImage.side, GrayImage.side]))
        let features = try MLDictionaryFeatureProvider(dictionary: [input: MLFeatureValue(multiArray: array)])
        guard let scores = try model.prediction(from: features).featureValue(for: output)?.multiArrayValue else {
            throw CoreLockerError(.fileAccess, "The model answers with no array")
        }
        return MLShapedArray<Float>(converting: scores).scalars
    }
}
