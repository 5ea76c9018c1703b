import Foundation

/// What an ``AppAttester`` needs of App Attest. The device layer gives Apple's, tests give their own.
package protocol AppAttestService: Sendable {
    var isSupported: Bool { get }
    /// Makes a key in the Secure Enclave; returns its id in padded base64.
    func generateKey() async throws -> String
    func attestKey(_ key: String, clientDataHash: Data) async throws -> Data
    func generateAssertion(_ key: String, clientDataHash: Data) async throws -> Data
}

/// Why Apple's calls fail, as far as it matters.
package enum AppAttestFailure: Error, Equatable {
    /// There is no such key: the app was installed anew, or the device was restored from a backup.
    case invalidKey
    /// Apple's server cannot be reached: later, with the same key.
    case unavailable
    /// This device or this kind of app has no App Attest.
    case unsupported
    case other
}

/// The App Attest key of this install.
package struct AppAttestKey: Equatable, Sendable {
    /// Apple's id, padded base64 of 32 bytes.
    package let id: String
    package let isAttested: Bool

    package init(id: String, isAttested: Bool) { (self.id, self.isAttested) = (id, isAttested) }
}

/// Where the key's id is kept.
package protocol AppAttestKeyStore: Sendable {
    func key() throws -> AppAttestKey?
    func save(_ key: AppAttestKey) throws
    func removeKey() throws
}

/// Vouches by App Attest: attests once an install and asserts afterwards (`docs/formats.md`, Proofs).
///
/// Whether the service knows a key is seen when it refuses an assertion. Then the next unlock attests a new key.
package actor AppAttester: Attester {
    private let service: any AppAttestService
    private let store: any AppAttestKeyStore
    private var last: Task<Void, Never>?

    package init(service: any AppAttestService, store: any AppAttestKeyStore) {
        (self.service, self.store) = (service, store)
    }

    /// One at a time: two first unlocks must not make two keys.
    package func evidence(for digest: Data, step: AttestedStep) async throws -> [String: String] {
        let before = last
        let work = Task {
            await before?.value
            try Task.checkCancellation()
            return try await self.make(digest, step)
        }
        last = Task { _ = try? await work.value }
        return try await withTaskCancellationHandler {
            try await work.value
        } onCancel: {
            work.cancel()
        }
    }

    package func hasOtherEvidence() async throws -> Bool {
        let hadKey = try store.key() != nil
        try store.removeKey()
        return hadKey && !attestedNow
    }

    /// Whether the last evidence was an attestation: after a refusal another one would be refused too.
    private var attestedNow = false

    private func make(_ digest: Data, _ step: AttestedStep) async throws -> [String: String] {
        guard service.isSupported else {
            throw CoreLockerError(.deviceUnsupported, "App Attest is not supported here")
        }
        attestedNow = false
        if let key = try store.key(), key.isAttested {
            do {
                let assertion = try await service.generateAssertion(key.id, clientDataHash: digest)
                return try evidence(key.id, "assertion", assertion)
            } catch AppAttestFailure.invalidKey {
                try store.removeKey()
            } catch {
                throw refusal(error)
            }
        }
        guard step == .unlock else {
            throw CoreLockerError(.attestationLost, "The app was installed anew since it was unlocked: unlock again")
        }
        return try await attest(digest)
    }

    private func attest(_ digest: Data) async throws -> [String: String] {
        let pending = try store.key()
        do {
            let id: String
            if let pending {
                id = pending.id
            } else {
                id = try await service.generateKey()
                try store.save(AppAttestKey(id: id, isAttested: false))
            }
            let attestation = try await service.attestKey(id, clientDataHash: digest)
            try store.save(AppAttestKey(id: id, isAttested: true))
            attestedNow = true
            return try evidence(id, "attestation", attestation)
        } catch {
            // Apple: with the same key after an outage, else with a new one.
            if let failure = error as? AppAttestFailure, failure != .unavailable { try store.removeKey() }
            // An older install has begun with that key, or its attestation was never noted.
            if pending != nil, error as? AppAttestFailure == .invalidKey { return try await attest(digest) }
            throw refusal(error)
        }
    }

    private func evidence(_ id: String, _ member: String, _ object: Data) throws -> [String: String] {
        guard let key = Data(base64Encoded: id), key.count == 32 else {
            throw CoreLockerError(.attestationEvidence, "App Attest gave a key without an id of 32 bytes")
        }
        return ["format": "apple-app-attest", "key_id": Base64URL.encode(key), member: Base64URL.encode(object)]
    }

    private func refusal(_ error: any Error) -> any Error {
        switch error as? AppAttestFailure {
        case .unavailable: CoreLockerError(.serviceUnreachable, "Apple's attestation service cannot be reached")
        case .unsupported: CoreLockerError(.deviceUnsupported, "App Attest is not supported here")
        case .invalidKey, .other: CoreLockerError(.deviceBusy, "App Attest failed")
        case nil: error
        }
    }
}
