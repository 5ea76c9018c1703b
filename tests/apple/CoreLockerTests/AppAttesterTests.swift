import Foundation
import Testing

@testable import CoreLocker

/// When App Attest is asked for what. Its cryptography is tested against the real verifier in `EndToEndTests.swift`.
@Suite struct AppAttesterTests {
    private final class KeyStore: AppAttestKeyStore, @unchecked Sendable {
        private let lock = NSLock()
        private var kept: AppAttestKey?
        func key() -> AppAttestKey? { lock.withLock { kept } }
        func save(_ key: AppAttestKey) { lock.withLock { kept = key } }
        func removeKey() { lock.withLock { kept = nil } }
    }

    private let digest = Data(repeating: 7, count: 32)
    private let store = KeyStore()
    private let device = FakeAppAttest()
    private var attester: AppAttester { AppAttester(service: device, store: store) }

    @Test func attestsOnceAndAssertsAfterwards() async throws {
        let first = try await attester.evidence(for: digest, step: .unlock)
        let id = Data(repeating: 1, count: 32)
        #expect(Set(first.keys) == ["format", "key_id", "attestation"])
        #expect(first["format"] == "apple-app-attest")
        #expect(first["key_id"].flatMap(Base64URL.decode) == id)
        // The digest is clientDataHash itself, not hashed again.
        #expect(first["attestation"].flatMap(Base64URL.decode) == Data("attest \(id.base64EncodedString()) ".utf8) + digest)
        // The next start of the app.
        for step in [AttestedStep.unlock, .renewal] {
            let next = try await attester.evidence(for: digest, step: step)
            #expect(Set(next.keys) == ["format", "key_id", "assertion"])
            #expect(next["assertion"].flatMap(Base64URL.decode) == Data("assert \(id.base64EncodedString()) ".utf8) + digest)
        }
        #expect(await device.calls == ["generate", "attest", "assert", "assert"])
    }

    @Test func twoFirstUnlocksMakeOneKey() async throws {
        let attester = attester
        async let one = attester.evidence(for: digest, step: .unlock)
        async let other = attester.evidence(for: digest, step: .unlock)
        let found = try await [one, other]
        #expect(found.filter { $0["attestation"] != nil }.count == 1)
        #expect(await device.calls.filter { $0 == "generate" }.count == 1)
    }

    @Test func aNewInstallAttestsAnew() async throws {
        _ = try await attester.evidence(for: digest, step: .unlock)
        await device.reinstall()
        #expect(await outcome { _ = try await attester.evidence(for: digest, step: .renewal) } == "attestation-lost")
        let again = try await attester.evidence(for: digest, step: .unlock)
        #expect(again["key_id"].flatMap(Base64URL.decode) == Data(repeating: 2, count: 32))
        #expect(again["attestation"] != nil)
    }

    @Test func anOutageKeepsTheKey() async throws {
        await device.fail("attest", .unavailable)
        #expect(await outcome { _ = try await attester.evidence(for: digest, step: .unlock) } == "service-unreachable")
        await device.fail("attest", nil)
        _ = try await attester.evidence(for: digest, step: .unlock)
        #expect(await device.calls == ["generate", "attest", "attest"])
    }

    @Test func anotherFailureMakesANewKey() async throws {
        await device.fail("attest", .other)
        #expect(await outcome { _ = try await attester.evidence(for: digest, step: .unlock) } == "device-busy")
        #expect(store.key() == nil)
        await device.fail("attest", nil)
        _ = try await attester.evidence(for: digest, step: .unlock)
        #expect(await device.calls == ["generate", "attest", "generate", "attest"])
    }

    /// A service that does not know the key (its own loss, or an answer that never came) refuses the assertion.
    @Test func aRefusedAssertionIsFollowedByAnAttestation() async throws {
        let attester = attester
        _ = try await attester.evidence(for: digest, step: .unlock)
        #expect(try await attester.hasOtherEvidence() == false, "a refused attestation is not sent twice")
        _ = try await attester.evidence(for: digest, step: .unlock)
        _ = try await attester.evidence(for: digest, step: .unlock)
        #expect(try await attester.hasOtherEvidence())
        #expect(try await attester.evidence(for: digest, step: .unlock)["attestation"] != nil)
    }

    @Test func withoutAppAttestThereIsNoEvidence() async throws {
        let attester = AppAttester(service: FakeAppAttest(isSupported: false), store: store)
        #expect(await outcome { _ = try await attester.evidence(for: digest, step: .unlock) } == "device-unsupported")
        await device.fail("generate", .unsupported)
        #expect(await outcome { _ = try await self.attester.evidence(for: digest, step: .unlock) } == "device-unsupported")
    }

    /// An install that went away before its key was attested leaves the key's id behind.
    @Test func aKeyThatAnOlderInstallHasBegunWith() async throws {
        await device.fail("attest", .unavailable)
        #expect(await outcome { _ = try await attester.evidence(for: digest, step: .unlock) } == "service-unreachable")
        await device.fail("attest", nil)
        await device.reinstall()
        #expect(try await attester.evidence(for: digest, step: .unlock)["attestation"] != nil)
        #expect(await device.calls == ["generate", "attest", "attest", "generate", "attest"])
        #expect(store.key()?.isAttested == true)
    }

    @Test func aKeyWithoutAProperId() async throws {
        store.save(AppAttestKey(id: "c2hvcnQ=", isAttested: true))
        #expect(await outcome { _ = try await attester.evidence(for: digest, step: .unlock) } == "attestation-evidence")
    }
}
