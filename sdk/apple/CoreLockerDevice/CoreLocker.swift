@_exported import CoreLocker
import Foundation

/// Unlocks the models of an app. It finds what it needs in the app's bundle: `corelocker.json` and the key bundles (`.clkey`).
///
/// ```swift
/// let locker = try CoreLocker()
/// try await locker.unlock(with: .appStore(result.jwsRepresentation))
/// let model = try await locker.model(named: "Classifier")  // import CoreLockerCoreML
/// ```
///
/// The device key is in the Secure Enclave, App Attest vouches for the app, the keychain keeps the license. In a debug build an app that holds
/// `attestation.pem` and a configuration for `development` uses that identity instead, so that it runs in the simulator.
public final class CoreLocker: Sendable {
    /// What talks to the service and keeps licenses, for whatever this class does not offer.
    public let client: UnlockClient
    package let resources: AppResources

    /// The app's configuration and its key bundles.
    public var configuration: AppConfiguration { resources.configuration }
    /// The key bundles of the app, by their paths.
    public var bundles: [KeyBundle] { resources.bundles }

    #if canImport(CryptoKit) && canImport(DeviceCheck) && canImport(Security) && canImport(StoreKit)
        /// Reads the configuration and the key bundles' headers, and finds or makes the device key.
        ///
        /// ```swift
        /// let locker = try CoreLocker()
        /// ```
        ///
        /// - Parameter bundle: where `corelocker.json` and the key bundles are.
        /// - Throws: ``CoreLockerError``: `appConfig` and the `bundle-` codes for what is in the app, `deviceUnsupported` without a Secure Enclave,
        ///   `deviceBusy` when it does not answer now, `fileAccess` when the keychain cannot be read.
        public convenience init(bundle: Bundle = .main) throws {
            guard let folder = bundle.resourceURL else {
                throw CoreLockerError(.fileAccess, "The bundle has no resources")
            }
            try self.init(folder: folder, system: .apple)
        }
    #endif

    /// - Parameter folder: where the app's resources are.
    package convenience init(folder: URL, system: DeviceSystem) throws {
        let resources = try AppResources(folder: folder)
        let (key, attester) = try system.identity(resources.configuration, folder: folder)
        let store = KeychainLicenseStore(Keychain(app: resources.configuration.app, calls: system.keychain))
        self.init(
            resources: resources,
            client: UnlockClient(
                configuration: resources.configuration, deviceKey: key, attester: attester, store: store, owned: system.owned))
    }

    package init(resources: AppResources, client: UnlockClient) { (self.resources, self.client) = (resources, client) }

    /// Fetches a license for what was bought.
    ///
    /// ```swift
    /// try await locker.unlock(with: .grant(grantFromOurBackend), tier: "plus", model: "scanner")
    /// ```
    ///
    /// - Parameters:
    ///   - purchase: what shows that it was bought.
    ///   - tier: the tier that was bought; nil for the highest.
    ///   - model: the model id of a key bundle; needed where the app holds several.
    /// - Throws: ``CoreLockerError``; `CancellationError` when the task was cancelled.
    public func unlock(with purchase: Purchase, tier: String? = nil, model: String? = nil) async throws {
        let bundle = try resources.bundle(of: model)
        // A bundle has two tiers at least.
        try await client.unlock(bundle, tier: tier ?? bundle.tiers[bundle.tiers.count - 1], purchase: purchase)
    }

    /// Renews the licenses that are due, and tries every one. Call it when the app starts and when the network is back.
    ///
    /// Where a license cannot be renewed, for one because the app was installed anew and App Attest's key went with the old install, it unlocks
    /// anew with what the user owns at the App Store. No dialog appears.
    ///
    /// ```swift
    /// .task { try? await locker.renewIfDue() }  // on the first view
    /// ```
    ///
    /// - Throws: the last refusal. A license that has not ended works all the same. With `attestationLost` and `licenseDevice` nothing is owned
    ///   that unlocks: hand over the purchase again.
    public func renewIfDue() async throws {
        var refusal: (any Error)?
        for bundle in bundles {
            do {
                try await client.renewIfDue(bundle)
            } catch let error as CoreLockerError where error.code == .notUnlocked {
                continue
            } catch {
                refusal = error
            }
        }
        if let refusal { throw refusal }
    }

    /// What to show of a model, now and whenever it changes. Throws `bundleMismatch`.
    ///
    /// ```swift
    /// .task {
    ///     guard let states = try? await locker.states() else { return }
    ///     for await state in states { self.state = state }
    /// }
    /// ```
    public func states(model: String? = nil) async throws -> AsyncStream<UnlockState> {
        await client.states(of: try resources.bundle(of: model))
    }

    /// Restores a locked file of the app in memory as far as the license goes. Needs no network.
    ///
    /// ```swift
    /// let restored = try await locker.restore("model.pte")
    /// restored.withUnsafeBytes { run($0) }
    /// ```
    ///
    /// - Parameters:
    ///   - name: the artifact's name in the key bundle, as in `model.pte`, or a file's beside it, as in `model.ptd`.
    ///   - check: when the whole file is read and compared.
    /// - Throws: ``CoreLockerError``: `notUnlocked` without a license, else one of the `license-`, `bundle-`, `patch-` and `restore-` codes.
    public func restore(_ name: String, check: FullCheck = .automatic) async throws -> RestoredFile {
        let found = try resources.artifact(named: [name])
        return try await client.restore(found.url, with: found.bundle, check: check)
    }

    /// Restores a locked file, or returns nil without a license that can be used now: the app then uses the file as it ships, at ``url(of:)``.
    ///
    /// ```swift
    /// if let restored = try await locker.restoreIfUnlocked("model.tflite") { run(restored.data) } else { run(try locker.url(of: "model.tflite")) }
    /// ```
    ///
    /// - Parameters:
    ///   - name: the artifact's name in the key bundle.
    ///   - check: when the whole file is read and compared.
    /// - Throws: ``CoreLockerError`` as ``restore(_:check:)``, the `license-` codes and `notUnlocked` apart.
    public func restoreIfUnlocked(_ name: String, check: FullCheck = .automatic) async throws -> RestoredFile? {
        let found = try resources.artifact(named: [name])
        guard (try? await client.license(for: found.bundle)) != nil else { return nil }
        return try await client.restore(found.url, with: found.bundle, check: check)
    }

    /// Where a locked file of the app lies, by its name in the key bundle. Throws `bundleMismatch` or `fileAccess`.
    ///
    /// ```swift
    /// let locked = try locker.url(of: "model.tflite")
    /// ```
    public func url(of name: String) throws -> URL { try resources.artifact(named: [name]).url }
}
