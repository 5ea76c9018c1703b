import Foundation

/// Fetches, keeps and renews the licenses of key bundles, and restores locked files with them.
///
/// ```swift
/// let client = UnlockClient(configuration: configuration, deviceKey: key, attester: attester, store: store)
/// try await client.unlock(bundle, tier: "full", purchase: .appStore(result.jwsRepresentation))
/// let model = try await client.restore(modelURL, with: bundle)
/// ```
public actor UnlockClient {
    private let configuration: AppConfiguration
    private let deviceKey: any DeviceKey
    private let attester: any Attester
    private let store: any LicenseStore
    private let clock: DeviceClock
    private let service: ServiceClient
    /// Exchanges change the license and the attester's counter: one at a time, for all bundles.
    private let turns = Turns()
    private let sleep: @Sendable (Double) async throws -> Void
    private var observers: [UUID: [UUID: AsyncStream<UnlockState>.Continuation]] = [:]
    private var published: [UUID: UnlockState] = [:]
    private var watches: [UUID: Task<Void, Never>] = [:]

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
            configuration: configuration, deviceKey: deviceKey, attester: attester, store: store,
            clocks: DeviceClock.systemReading, transport: URLSessionTransport(), retries: RetryPolicy())
    }

    init(
        configuration: AppConfiguration, deviceKey: any DeviceKey, attester: any Attester, store: any LicenseStore,
        clocks: @escaping @Sendable () -> ClockReading, transport: any Transport, retries: RetryPolicy,
        sleep: @escaping @Sendable (Double) async throws -> Void = { try await Task.sleep(nanoseconds: UInt64($0 * 1e9)) }
    ) {
        self.configuration = configuration
        self.deviceKey = deviceKey
        self.attester = attester
        self.store = store
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
                let answer: Fields
                do {
                    answer = try await self.request(bundle, tier, purchase)
                } catch let error as CoreLockerError where error.code == .attestationRefused {
                    guard try await self.attester.hasOtherEvidence() else { throw error }
                    answer = try await self.request(bundle, tier, purchase)
                }
                try self.repairMark()
                try self.keep(answer, bundle, expected)
            }
        }
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
    ///
    /// ```swift
    /// do {
    ///     try await client.renew(bundle)
    /// } catch let error as CoreLockerError where error.code == .serviceUnreachable {
    ///     // The license that is held works on until it ends.
    /// }
    /// ```
    ///
    /// - Throws: ``CoreLockerError``: `notUnlocked` without a license, else as ``unlock(_:tier:purchase:)``.
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
                let answer = try await self.requestRenewal(of: held, bundle, byDeviceKey: byDeviceKey)
                guard try self.store.license(bundle: bundle.id) == token else {
                    throw CoreLockerError(.notUnlocked, "The license was removed from this device while it was renewed")
                }
                try self.keep(answer, bundle, expected)
            } catch let error as CoreLockerError where error.code.endsTheRight {
                try self.store.removeLicense(bundle: bundle.id)
                throw error
            }
        }
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

    /// What to show now.
    ///
    /// ```swift
    /// if case .unlocked = await client.state(of: bundle) { hidePaywall() }
    /// ```
    public func state(of bundle: KeyBundle) -> UnlockState { state(of: bundle.identity) }

    func state(of bundle: BundleIdentity) -> UnlockState {
        do {
            let verified = try current(bundle)
            let end = verified.license.expiresAt
            if verified.state == .grace, let end {
                return .offline(until: Date(timeIntervalSince1970: Double(end + configuration.offlineGrace)))
            }
            return .unlocked(tier: verified.license.tier, until: end.map { Date(timeIntervalSince1970: Double($0)) })
        } catch let error as CoreLockerError {
            return UnlockState(refusal: error)
        } catch {
            return .refused(.fileAccess)
        }
    }

    /// The bundle's state, now and whenever it changes, also when a license ends.
    ///
    /// ```swift
    /// for await state in await client.states(of: bundle) { self.state = state }
    /// ```
    public func states(of bundle: KeyBundle) -> AsyncStream<UnlockState> { states(of: bundle.identity) }

    func states(of bundle: BundleIdentity) -> AsyncStream<UnlockState> {
        let (stream, continuation) = AsyncStream<UnlockState>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let observer = UUID()
        observers[bundle.id, default: [:]][observer] = continuation
        continuation.onTermination = { [weak self] _ in
            Task { await self?.removeObserver(observer, of: bundle.id) }
        }
        let now = state(of: bundle)
        if published[bundle.id] == nil { published[bundle.id] = now }
        continuation.yield(now)
        watch(bundle)
        return stream
    }

    private func removeObserver(_ observer: UUID, of bundle: UUID) {
        observers[bundle]?[observer] = nil
        if observers[bundle]?.isEmpty ?? true { watches.removeValue(forKey: bundle)?.cancel() }
    }

    private func publish(_ state: UnlockState, of bundle: BundleIdentity) {
        published[bundle.id] = state
        observers[bundle.id]?.values.forEach { $0.yield(state) }
        watch(bundle)
    }

    /// Publishes what time alone changes, as long as somebody observes.
    private func watch(_ bundle: BundleIdentity) {
        watches.removeValue(forKey: bundle.id)?.cancel()
        guard observers[bundle.id]?.isEmpty == false, let seconds = secondsUntilChange(bundle) else { return }
        watches[bundle.id] = Task { [weak self, sleep] in
            guard (try? await sleep(seconds)) != nil, !Task.isCancelled else { return }
            await self?.timeHasPassed(bundle)
        }
    }

    private func timeHasPassed(_ bundle: BundleIdentity) {
        let now = state(of: bundle)
        if now != published[bundle.id], published[bundle.id] != .unlocking {
            publish(now, of: bundle)
        } else {
            watch(bundle)
        }
    }

    /// Until the license ends, or its grace. The clock may be set and devices sleep, so an hour at most.
    private func secondsUntilChange(_ bundle: BundleIdentity) -> Double? {
        guard let license = try? current(bundle).license, let end = license.expiresAt,
            let now = try? clock.now(for: license, offlineGrace: configuration.offlineGrace)
        else { return nil }
        return [end, end + configuration.offlineGrace].first { $0 > now }.map { min(Double($0 - now), 3600) }
    }

    /// Runs `work` and publishes how it ended.
    private func publishing(_ bundle: BundleIdentity, _ work: () async throws -> Void) async throws {
        do {
            try await work()
            publish(state(of: bundle), of: bundle)
        } catch {
            let kept = state(of: bundle)
            if let refusal = error as? CoreLockerError, kept == .locked {
                publish(UnlockState(refusal: refusal), of: bundle)
            } else {
                publish(kept, of: bundle)
            }
            throw error
        }
    }

    private var thumbprint: String { deviceKey.publicKey.thumbprint }

    private func current(_ bundle: BundleIdentity) throws -> VerifiedLicense {
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
    private func keep(_ answer: Fields, _ bundle: BundleIdentity, _ expected: ExpectedLicense) throws {
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
    /// Whether a renewal that is refused so means that the license must go.
    fileprivate var endsTheRight: Bool {
        switch self {
        case .licenseRevoked, .purchaseRevoked, .purchaseSuperseded, .deviceInactive: true
        default: false
        }
    }
}

extension UnlockState {
    init(refusal: CoreLockerError) {
        switch refusal.code {
        case .notUnlocked: self = .locked
        case .licenseExpired: self = .expired
        case let code where code.endsTheRight: self = .revoked
        default: self = .refused(refusal.code)
        }
    }
}
