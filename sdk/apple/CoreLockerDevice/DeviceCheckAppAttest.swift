#if canImport(DeviceCheck)
    import CoreLocker
    import DeviceCheck
    import Foundation

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

    extension AppAttestFailure {
        fileprivate init(_ error: any Error) {
            switch (error as? DCError)?.code {
            case .invalidKey, .invalidInput: self = .invalidKey
            case .serverUnavailable: self = .unavailable
            default: self = .other
            }
        }
    }
#endif
