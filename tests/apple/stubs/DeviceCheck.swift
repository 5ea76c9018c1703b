import Foundation

open class DCAppAttestService: NSObject {
    /// ObjC: DCAppAttestService.sharedService
    public class var shared: DCAppAttestService { fatalError() }
    /// ObjC: DCAppAttestService.supported
    public var isSupported: Bool { fatalError() }
    /// ObjC: DCAppAttestService.generateKeyWithCompletionHandler
    public func generateKey() async throws -> String { fatalError() }
    /// ObjC: DCAppAttestService.attestKeyClientDataHashCompletionHandler
    public func attestKey(_ keyId: String, clientDataHash: Data) async throws -> Data { fatalError() }
    /// ObjC: DCAppAttestService.generateAssertionClientDataHashCompletionHandler
    public func generateAssertion(_ keyId: String, clientDataHash: Data) async throws -> Data { fatalError() }
}

public struct DCError: Error {
    /// ObjC: DCError
    public enum Code: Int, Sendable {
        case unknownSystemFailure, featureUnsupported, invalidInput, invalidKey, serverUnavailable
    }
    public let code: Code
    public init(_ code: Code, userInfo: [String: Any] = [:]) { self.code = code }
}
