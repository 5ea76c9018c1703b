import Foundation

/// ObjC: MLModelConfiguration
open class MLModelConfiguration: NSObject {
    /// ObjC: MLModelConfiguration.functionName
    open var functionName: String?
}

/// ObjC: MLModelAsset
open class MLModelAsset: NSObject {
    /// ObjC: MLModelAsset.modelAssetWithSpecificationDataBlobMappingError
    @available(iOS 18, macOS 15, *)
    public convenience init(specification specificationData: Data, blobMapping: [URL: Data]) throws { fatalError() }
}

/// ObjC: MLModel
open class MLModel: NSObject {
    /// ObjC: MLModel.compileModelAtURLCompletionHandler
    public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }
    /// ObjC: MLModel.loadContentsOfURLConfigurationCompletionHandler
    public class func load(
        contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()
    ) async throws -> MLModel { fatalError() }
    /// ObjC: MLModel.loadModelAssetConfigurationCompletionHandler
    public class func load(asset: MLModelAsset, configuration: MLModelConfiguration) async throws -> MLModel { fatalError() }
}
