import Foundation

/// ObjC: MLModelConfiguration
open class MLModelConfiguration: NSObject {
    /// ObjC: MLModelConfiguration.functionName
    open var functionName: String?
    /// ObjC: MLModelConfiguration.computeUnits
    open var computeUnits = MLComputeUnits.all
}

/// ObjC: MLComputeUnits
public enum MLComputeUnits: Int, Sendable {
    case cpuOnly, cpuAndGPU, all
}

/// ObjC: MLModelAsset
open class MLModelAsset: NSObject {
    /// ObjC: MLModelAsset.modelAssetWithSpecificationDataBlobMappingError
    @available(iOS 18, macOS 15, *)
    public convenience init(specification specificationData: Data, blobMapping: [URL: Data]) throws { fatalError() }
}

/// ObjC: MLModel
open class MLModel: NSObject {
    /// ObjC: MLModel.modelDescription
    open var modelDescription: MLModelDescription { fatalError() }
    /// ObjC: MLModel.predictionFromFeaturesError
    open func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider { fatalError() }
    /// ObjC: MLModel.predictionFromFeaturesCompletionHandler
    open func prediction(from input: any MLFeatureProvider) async throws -> any MLFeatureProvider { fatalError() }
    /// ObjC: MLModel.compileModelAtURLCompletionHandler
    public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }
    /// ObjC: MLModel.loadContentsOfURLConfigurationCompletionHandler
    public class func load(
        contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()
    ) async throws -> MLModel { fatalError() }
    /// ObjC: MLModel.loadModelAssetConfigurationCompletionHandler
    public class func load(asset: MLModelAsset, configuration: MLModelConfiguration) async throws -> MLModel { fatalError() }
}

/// ObjC: MLModelDescription
open class MLModelDescription: NSObject {
    /// ObjC: MLModelDescription.inputDescriptionsByName
    open var inputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
    /// ObjC: MLModelDescription.outputDescriptionsByName
    open var outputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
}

/// ObjC: MLFeatureDescription
open class MLFeatureDescription: NSObject {
    /// ObjC: MLFeatureDescription.multiArrayConstraint
    open var multiArrayConstraint: MLMultiArrayConstraint? { nil }
}

/// ObjC: MLMultiArrayConstraint
open class MLMultiArrayConstraint: NSObject {
    /// ObjC: MLMultiArrayConstraint.shape
    open var shape: [NSNumber] { [] }
}

public protocol MLFeatureProvider {
    /// ObjC: MLDictionaryFeatureProvider.featureValueForName
    func featureValue(for featureName: String) -> MLFeatureValue?
}

/// ObjC: MLDictionaryFeatureProvider
open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public init(dictionary: [String: Any]) throws {}
    open func featureValue(for featureName: String) -> MLFeatureValue? { nil }
}

/// ObjC: MLFeatureValue
open class MLFeatureValue: NSObject {
    /// ObjC: MLFeatureValue.featureValueWithMultiArray
    public convenience init(multiArray value: MLMultiArray) { fatalError() }
    /// ObjC: MLFeatureValue.multiArrayValue
    open var multiArrayValue: MLMultiArray? { nil }
}

/// ObjC: MLMultiArray
open class MLMultiArray: NSObject {
    public convenience init<Scalar>(_ shapedArray: MLShapedArray<Scalar>) { fatalError() }
}

public protocol MLShapedArrayScalar {}
extension Float: MLShapedArrayScalar {}

public struct MLShapedArray<Scalar: MLShapedArrayScalar> {
    public init(scalars: some Sequence<Scalar>, shape: [Int]) {}
    public init(repeating scalar: Scalar, shape: [Int]) {}
    public init(converting multiArray: MLMultiArray) {}
    public var scalars: [Scalar] { [] }
}
