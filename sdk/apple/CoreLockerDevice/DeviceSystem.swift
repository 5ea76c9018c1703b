import CoreLocker
import Foundation

/// What this library asks of the system that it runs on: `apple` is Apple's, tests have their own.
package struct DeviceSystem: Sendable {
    let keychain: any KeychainCalls
    let enclave: any EnclaveCalls
    /// Keys in software, for a development identity; nil in release builds.
    let softwareKeys: (any EnclaveCalls)?
    let appAttest: any AppAttestService
    /// What the user owns at the App Store now.
    let owned: @Sendable () async -> [Purchase]

    package init(
        keychain: any KeychainCalls, enclave: any EnclaveCalls, softwareKeys: (any EnclaveCalls)?, appAttest: any AppAttestService,
        owned: @escaping @Sendable () async -> [Purchase]
    ) {
        (self.keychain, self.enclave, self.softwareKeys) = (keychain, enclave, softwareKeys)
        (self.appAttest, self.owned) = (appAttest, owned)
    }

    /// The device key, and what vouches for it.
    ///
    /// An app for development that holds `attestation.pem` among its resources has an identity in software, in debug builds alone.
    func identity(_ configuration: AppConfiguration, folder: URL) throws -> (any DeviceKey, any Attester) {
        let keychain = Keychain(app: configuration.app, calls: keychain)
        #if DEBUG
            let file = folder.appendingPathComponent("attestation.pem")
            if configuration.environment == .development, let softwareKeys, FileManager.default.fileExists(atPath: file.path) {
                let identity = try DevelopmentIdentity(pem: try String(contentsOf: file, encoding: .utf8))
                return (try SecureEnclaveDeviceKey(keychain, softwareKeys, account: "development-device-key"), identity)
            }
        #endif
        let attester = AppAttester(service: appAttest, store: KeychainAppAttestKeyStore(keychain))
        return (try SecureEnclaveDeviceKey(keychain, enclave), attester)
    }
}

#if canImport(CryptoKit) && canImport(DeviceCheck) && canImport(Security) && canImport(StoreKit)
    extension DeviceSystem {
        static var apple: DeviceSystem {
            var softwareKeys: (any EnclaveCalls)?
            #if DEBUG
                softwareKeys = SoftwareEnclave()
            #endif
            return DeviceSystem(
                keychain: SecItemCalls(), enclave: CryptoKitEnclave(), softwareKeys: softwareKeys, appAttest: DeviceCheckAppAttest(),
                owned: { await CoreLocker.currentPurchases() })
        }
    }
#endif
