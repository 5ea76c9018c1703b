import CoreLocker
import Foundation

extension AppAttestFailure {
    /// What an error of App Attest means.
    package init(_ error: any Error) {
        let error = error as NSError
        guard error.domain == "com.apple.devicecheck.error" else {
            self = .other
            return
        }
        switch error.code {
        case 1: self = .unsupported  // ObjC: DCError.FeatureUnsupported
        case 2: self = .invalidKey  // ObjC: DCError.InvalidInput
        case 3: self = .invalidKey  // ObjC: DCError.InvalidKey
        case 4: self = .unavailable  // ObjC: DCError.ServerUnavailable
        default: self = .other
        }
    }
}

#if canImport(DeviceCheck)
    import DeviceCheck

    /// Apple's App Attest (`DCAppAttestService`). The digest of the request is `clientDataHash` itself.
    struct DeviceCheckAppAttest: AppAttestService {
        var isSupported: Bool { DCAppAttestService.shared.isSupported }

        func generateKey() async throws -> String {
            do { return try await DCAppAttestService.shared.generateKey() } catch { throw AppAttestFailure(error) }
        }

        func attestKey(_ key: String, clientDataHash: Data) async throws -> Data {
            do {
                return try await DCAppAttestService.shared.attestKey(key, clientDataHash: clientDataHash)
            } catch { throw AppAttestFailure(error) }
        }

        func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data {
            do {
                return try await DCAppAttestService.shared.generateAssertion(key, clientDataHash: clientDataHash)
            } catch { throw AppAttestFailure(error) }
        }
    }
#endif
