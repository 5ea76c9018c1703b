import Foundation

/// Fetches, keeps and renews the licenses of key bundles, and restores locked files with them.
///
/// ```swift
/// let client = UnlockClient(configuration: configuration, deviceKey: key, attester: attester, store: store)
/// try await client.unlock(bundle, tier: "full", purchase: .appStore(result.jwsRepresentation))
/// let model = try await client.restore(modelURL, with: bundle)
/// ```
public actor UnlockClient {
    let configuration: AppConfiguration
    private let deviceKey: any DeviceKey
    private let attester: any Attester
    private let store: any LicenseStore
    /// What the user owns at the store now, for the case that the keys are lost that renewed a license.
    private let owned: @Sendable () async -> [Purchase]
    let clock: DeviceClock
    private let service: ServiceClient
    /// Exchanges change the license and the attester's counter: one at a time, for all bundles.
    private let turns = Turns()
    let sleep: @Sendable (Double) async throws -> Void
    var observers: [UUID: [UUID: AsyncStream<UnlockState>.Continuation]] = [:]
    var published: [UUID: UnlockState] = [:]
    var watches: [UUID: Task<Void, Never>] = [:]

    /// A client for the app whose `corelocker.json` is `configuration`.
    ///
    /// ```swift
    /// let client = UnlockClient(
    ///     configuration: try AppConfiguration(contentsOf: url), deviceKey: try SecureEnclaveDeviceKey(service: "com.example.camera"),
    ///     attester: attester, store: KeychainLicenseStore(service: "com.example.camera"))
    /// ```
    public init(
        configuration: AppConfiguration, deviceKey: any DeviceKey, attester: any Attester, store: any LicenseStore
    ) {
        self.init(
            configuration: configuration, deviceKey: deviceKey, attester: attester, store: store, owned: { [] })
    }

    /// As ``init(configuration:deviceKey:attester:store:)``; `owned` gives what the user owns at the store.
    package init(
        configuration: AppConfiguration, deviceKey: any DeviceKey, attester: any Attester, store: any LicenseStore,
        owned: @escaping @Sendable () async -> [Purchase]
    ) {
        self.init(
            configuration: configuration, deviceKey: deviceKey, attester: attester, store: store, owned: owned,
            clocks: DeviceClock.systemReading, transport: URLSessionTransport(), retries: RetryPolicy())
    }

    init(
        configuration: AppConfiguration, deviceKey: any DeviceKey, attester: any Attester, store: any LicenseStore,
        owned: @escaping @Sendable () async -> [Purchase] = { [] },
        clocks: @escaping @Sendable () -> ClockReading, transport: any Transport, retries: RetryPolicy,
        sleep: @escaping @Sendable (Double) async throws -> Void = { try await Task.sleep(nanoseconds: UInt64($0 * 1e9)) }
    ) {
        self.configuration = configuration
        self.deviceKey = deviceKey
        self.attester = attester
        self.store = store
        self.owned = owned
        self.sleep = sleep
        clock = DeviceClock(store: store, read: clocks)
        service = ServiceClient(base: configuration.service, transport: transport, retries: retries)
    }

    deinit { watches.values.forEach { $0.cancel() } }

    /// Fetches a license for a tier of the bundle, and keeps it in place of an older one.
    ///
    /// ```swift
    /// try await client.unlock(bundle, tier: "full", purchase: .appStore(result.jwsRepresentation))
    /// ```
    ///
    /// - Throws: ``CoreLockerError``; then an older license stays. `CancellationError` when the task was cancelled.
    public func unlock(_ bundle: KeyBundle, tier: String, purchase: Purchase) async throws {
        try await unlock(bundle.identity, tier: tier, purchase: purchase)
    }

    /// As ``unlock(_:tier:purchase:)``, but a license for a higher tier stays as long as it has not ended.
    package func unlockUnlessHigher(_ bundle: KeyBundle, tier: String, purchase: Purchase) async throws {
        try await unlock(bundle.identity, tier: tier, purchase: purchase, unlessHigher: true)
    }

    func unlock(_ bundle: BundleIdentity, tier: String, purchase: Purchase, unlessHigher: Bool = false) async throws {
        _ = try bundle.tier(named: tier)
        let expected = try expectation(bundle, tier: tier)
        publish(.unlocking, of: bundle)
        try await publishing(bundle) {
            try await self.inTurn {
                if unlessHigher, try self.holdsMore(than: tier, bundle) { return }
                try await self.fetch(bundle, tier, purchase, expected)
            }
        }
    }

    /// - Parameter replaced: a license that must still be here when the new one comes; nil for none in particular.
    private func fetch(
        _ bundle: BundleIdentity, _ tier: String, _ purchase: Purchase, _ expected: ExpectedLicense, replacing replaced: String? = nil
    ) async throws {
        let answer: Fields
        do {
            answer = try await request(bundle, tier, purchase)
        } catch let error as CoreLockerError where error.code == .attestationRefused {
            guard try await attester.hasOtherEvidence() else { throw error }
            answer = try await request(bundle, tier, purchase)
        }
        try repairMark()
        try keep(answer, bundle, expected, replacing: replaced)
    }

    private func holdsMore(than tier: String, _ bundle: BundleIdentity) throws -> Bool {
        guard let held = try? current(bundle), held.state != .grace else { return false }
        return try bundle.tier(named: held.license.tier) > bundle.tier(named: tier)
    }

    private func request(_ bundle: BundleIdentity, _ tier: String, _ purchase: Purchase) async throws -> Fields {
        let (app, key, attester) = (configuration.app, deviceKey.publicKey, attester)
        return try await service.exchange("/v1/licenses", challenge: .object([:])) { challenge in
            let digest = try AttestedRequest(
                challenge: challenge.nonce, app: app, bundle: bundle.text, tier: tier, device: key.thumbprint,
                purchaseToken: purchase.token
            ).digest()
            let evidence = try await attester.evidence(for: digest, step: .unlock)
            return .object([
                "challenge": .text(challenge.nonce), "app": .text(app), "bundle": .text(bundle.text),
                "tier": .text(tier), "device_key": key.jwk, "attestation": .object(texts: evidence),
                "purchase": purchase.json,
            ])
        }
    }

    /// Fetches the next license for the one that is kept, which may have ended. The new one counts, also when its tier is lower or its end earlier.
    ///
    /// When the service says that the right is gone (revoked, refunded, replaced, or the place given to another device), the kept license goes too.
    /// When the license cannot be renewed any more (the keys were lost with an older install of the app, or it ended too long ago), what the user
    /// owns at the App Store unlocks anew, where the client knows of it (`CoreLocker` of CoreLockerDevice).
    ///
    /// ```swift
    /// do {
    ///     try await client.renew(bundle)
    /// } catch let error as CoreLockerError where error.code == .serviceUnreachable {
    ///     // The license that is held works on until it ends.
    /// }
    /// ```
    ///
    /// - Throws: ``CoreLockerError``: `notUnlocked` without a license; `attestationLost` or `licenseDevice` when the keys were lost and nothing
    ///   is owned that unlocks anew; else as ``unlock(_:tier:purchase:)``.
    public func renew(_ bundle: KeyBundle) async throws { try await renew(bundle.identity, byDeviceKey: false) }

    /// With `byDeviceKey` the device key itself answers in place of an attestation.
    func renew(_ bundle: BundleIdentity, byDeviceKey: Bool) async throws {
        try await inTurn { try await self.renewHeld(bundle, byDeviceKey: byDeviceKey) }
    }

    private func renewHeld(_ bundle: BundleIdentity, byDeviceKey: Bool) async throws {
        let token = try stored(bundle)
        let held = try License(token, keys: configuration.licenseKeys)
        let expected = try expectation(bundle, tier: nil)
        try await publishing(bundle) {
            do {
                guard held.device == self.thumbprint else {
                    throw CoreLockerError(.licenseDevice, "The license is for a device key that is not here any more")
                }
                let answer = try await self.requestRenewal(of: held, bundle, byDeviceKey: byDeviceKey)
                try self.keep(answer, bundle, expected, replacing: token)
            } catch let error as CoreLockerError where error.code.endsTheRight {
                try self.store.removeLicense(bundle: bundle.id)
                throw error
            } catch let error as CoreLockerError where error.code.needsUnlock {
                try await self.unlockAnew(bundle, upTo: held.tier, replacing: token, lost: error)
            }
        }
    }

    /// Unlocks with the first thing owned that is worth the tier, else a lower one.
    ///
    /// - Throws: `lost` when nothing is owned; the refusal of what is, unless it is for something else.
    private func unlockAnew(
        _ bundle: BundleIdentity, upTo highest: String, replacing held: String, lost: CoreLockerError
    ) async throws {
        let (purchases, top) = (await owned(), try bundle.tier(named: highest))
        var refusal = lost
        for tier in bundle.tiers[...top].dropFirst().reversed() {
            for purchase in purchases {
                do {
                    return try await fetch(bundle, tier, purchase, try expectation(bundle, tier: tier), replacing: held)
                } catch let error as CoreLockerError where error.code.isOfThePurchase {
                    if error.code != .purchaseProduct { refusal = error }
                }
            }
        }
        throw refusal
    }

    private func requestRenewal(of held: License, _ bundle: BundleIdentity, byDeviceKey: Bool) async throws -> Fields {
        let (attester, key, app) = (attester, deviceKey, configuration.app)
        let asked: JSON = byDeviceKey ? .object(["device_key": key.publicKey.jwk]) : .object([:])
        return try await service.exchange(ServiceClient.renewal(of: held.id), challenge: asked) {
            let digest = try AttestedRequest(
                challenge: $0.nonce, app: app, bundle: bundle.text, tier: held.tier,
                device: key.publicKey.thumbprint, purchaseToken: AttestedRequest.renewal(of: held.id)
            ).digest()
            let evidence =
                byDeviceKey
                ? try DeviceKeyProof.evidence($0.sealed, digest: digest, deviceKey: key)
                : try await attester.evidence(for: digest, step: .renewal)
            return .object(["challenge": .text($0.nonce), "attestation": .object(texts: evidence)])
        }
    }

    /// Renews when it is time to, and does nothing otherwise. Apps call it when they start and when the network is back.
    ///
    /// ```swift
    /// Task { try? await client.renewIfDue(bundle) }
    /// ```
    ///
    /// - Returns: whether a renewal was tried and done.
    @discardableResult
    public func renewIfDue(_ bundle: KeyBundle) async throws -> Bool {
        var isDue = false
        try await inTurn {
            if let verified = try? self.current(bundle.identity), verified.state == .valid { return }
            isDue = true
            try await self.renewHeld(bundle.identity, byDeviceKey: false)
        }
        return isDue
    }

    private func inTurn(_ work: () async throws -> Void) async throws {
        try await turns.take()
        do {
            try await work()
        } catch {
            await turns.pass()
            throw error
        }
        await turns.pass()
    }

    /// The license's tier and claims, checked as if it had just come. Needs no network.
    ///
    /// ```swift
    /// let tier = try? await client.license(for: bundle).tier
    /// ```
    ///
    /// - Throws: ``CoreLockerError``: `notUnlocked` without one, or the `license-` code that says why it cannot be used now.
    public func license(for bundle: KeyBundle) throws -> License { try current(bundle.identity).license }

    /// Restores a locked file in memory as far as the license goes. Needs no network.
    ///
    /// ```swift
    /// let restored = try await client.restore(modelURL, with: bundle)
    /// let program = restored.data
    /// ```
    ///
    /// - Parameters:
    ///   - file: the locked file; which one of the bundle it is follows from its name and size.
    ///   - bundle: what unlocks it.
    ///   - tier: a lower tier than the license's; nil for the license's own.
    ///   - check: when the whole file is read and compared.
    /// - Throws: ``CoreLockerError`` as ``license(for:)``, or one of the `bundle-`, `patch-` and `restore-` codes.
    public func restore(
        _ file: URL, with bundle: KeyBundle, tier: String? = nil, check: FullCheck = .automatic
    ) throws -> RestoredFile {
        let license = try current(bundle.identity).license
        let keyTier = try bundle.tier(named: license.tier)
        let contentKey = try license.open(with: deviceKey)
        let target = try tier.map { try bundle.tier(named: $0) } ?? keyTier
        return try bundle.restore(file, tier: target, contentKey: contentKey, keyTier: keyTier, check: check)
    }

    /// Removes the license of the bundle from the device, if there is one.
    ///
    /// ```swift
    /// try await client.forget(bundle)  // "Remove from this device"
    /// ```
    public func forget(_ bundle: KeyBundle) throws { try forget(bundle.identity) }

    func forget(_ bundle: BundleIdentity) throws {
        try store.removeLicense(bundle: bundle.id)
        publish(.locked, of: bundle)
    }

    private var thumbprint: String { deviceKey.publicKey.thumbprint }

    func current(_ bundle: BundleIdentity) throws -> VerifiedLicense {
        try VerifiedLicense(
            try stored(bundle), keys: configuration.licenseKeys, expected: try expectation(bundle, tier: nil), clock: clock)
    }

    private func stored(_ bundle: BundleIdentity) throws -> String {
        guard let token = try store.license(bundle: bundle.id) else {
            throw CoreLockerError(.notUnlocked, "This device holds no license for the key bundle")
        }
        return token
    }

    private func expectation(_ bundle: BundleIdentity, tier: String?) throws(CoreLockerError) -> ExpectedLicense {
        guard bundle.publisher == configuration.publisher else {
            throw CoreLockerError(.bundlePublisher, "Another publisher than the app expects signed the key bundle")
        }
        return ExpectedLicense(
            issuer: configuration.issuer, app: configuration.app, environment: configuration.environment,
            bundle: bundle.text, modelVersion: bundle.modelVersion, device: thumbprint,
            tiers: tier.map { [$0] } ?? Array(bundle.tiers.dropFirst()), offlineGrace: configuration.offlineGrace)
    }

    /// Keeps the license of an answer, once it is known to be good and to open on this device.
    private func keep(
        _ answer: Fields, _ bundle: BundleIdentity, _ expected: ExpectedLicense, replacing replaced: String?
    ) throws {
        guard try replaced == nil || store.license(bundle: bundle.id) == replaced else {
            throw CoreLockerError(.notUnlocked, "The license was removed from this device while it was renewed")
        }
        guard let token = answer.members["license"]?.text else {
            throw CoreLockerError(.licenseFormat, "The service's answer holds no license")
        }
        let verified = try VerifiedLicense(token, keys: configuration.licenseKeys, expected: expected, clock: clock)
        _ = try verified.license.open(with: deviceKey)
        try store.save(token, bundle: bundle.id)
    }

    /// Drops a damaged mark; the time at which the new license was issued takes its place.
    ///
    /// Only after the service has answered: offline, whoever damages the record must not turn the clock back with it.
    private func repairMark() throws {
        do {
            _ = try store.mark()
        } catch let error as CoreLockerError where error.code == .licenseClock {
            try store.removeMark()
        }
    }
}

extension ErrorCode {
    /// Whether a renewal that is refused so means that this license can be renewed no more, but its purchase may still count.
    fileprivate var needsUnlock: Bool {
        switch self {
        case .attestationLost, .licenseDevice, .licenseExpired, .licenseUnknown: true
        default: false
        }
    }

    /// Whether another purchase may do better.
    fileprivate var isOfThePurchase: Bool { self == .deviceLimit || rawValue.hasPrefix("purchase") }

    /// Whether a renewal that is refused so means that the license must go.
    var endsTheRight: Bool {
        switch self {
        case .licenseRevoked, .purchaseRevoked, .purchaseSuperseded, .deviceInactive: true
        default: false
        }
    }
}
