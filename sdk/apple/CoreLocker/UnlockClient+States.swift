import Foundation

extension UnlockClient {
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

    func publish(_ state: UnlockState, of bundle: BundleIdentity) {
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
    func publishing(_ bundle: BundleIdentity, _ work: () async throws -> Void) async throws {
        do {
            try await work()
            publish(state(of: bundle), of: bundle)
        } catch {
            let kept = state(of: bundle)
            // What has ended and cannot be renewed needs another step than a renewal.
            if let refusal = error as? CoreLockerError, kept == .locked || kept == .expired && refusal.code == .attestationLost {
                publish(UnlockState(refusal: refusal), of: bundle)
            } else {
                publish(kept, of: bundle)
            }
            throw error
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
