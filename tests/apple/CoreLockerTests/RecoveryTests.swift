import Foundation
import Testing

@testable import CoreLocker

/// Licenses that cannot be renewed any more, and what the user owns at the store (answers of `flow.json`).
@Suite struct RecoveryTests {
    private let world: FlowWorld
    private let store: MemoryStore

    init() throws {
        world = try FlowWorld()
        store = MemoryStore(license: try world.held("renew"), bundle: world.bundle.id)
    }

    /// The app was installed anew: App Attest's key is lost.
    private func reinstalled() throws -> TransactionService {
        TransactionService(
            [
                "full": try world.answer("unlock"), "plus": try world.answer("license-for-another-tier"),
                "other": try world.answer("purchase-product"), "pending": try world.answer("purchase-pending"),
                "elsewhere": try world.answer("device-limit"), "refused": try world.answer("attestation-refused"),
            ], obstacle: CoreLockerError(.attestationLost, "the app was installed anew"))
    }

    private func renew(_ service: TransactionService, owned: [String], wall: Locked<Int64>? = nil) async -> String {
        let client = world.client(service, store, wall: wall, owned: { owned.map(Purchase.appStore) })
        return await outcome { try await client.renew(world.bundle, byDeviceKey: false) }
    }

    @Test func whatIsOwnedUnlocksAnew() async throws {
        let (service, old) = (try reinstalled(), try world.license(store).id)
        #expect(await renew(service, owned: ["other", "pending", "full"]) == "ok")
        #expect(await service.asked == ["other full", "pending full", "full full"])
        #expect(try world.license(store).id != old && world.tier(store) == "full")
    }

    /// The user has changed to a smaller plan since.
    @Test func aLowerTierThatIsOwned() async throws {
        let service = TransactionService(
            ["other": try world.answer("purchase-product")], obstacle: CoreLockerError(.attestationLost, "the app was installed anew"))
        #expect(await renew(service, owned: ["other"]) == "attestation-lost")
        #expect(await service.asked == ["other full", "other plus"], "every tier down to the lowest that needs a license")

        let smaller = TransactionService(
            ["now full": try world.answer("purchase-product"), "now plus": try world.answer("license-for-another-tier")],
            obstacle: CoreLockerError(.attestationLost, "the app was installed anew"))
        #expect(await renew(smaller, owned: ["now"]) == "ok")
        #expect(try world.tier(store) == "plus")
    }

    @Test func whenNothingHelpsTheLicenseStays() async throws {
        let old = try world.license(store).id
        #expect(await renew(try reinstalled(), owned: []) == "attestation-lost")
        #expect(await renew(try reinstalled(), owned: ["other"]) == "attestation-lost")
        #expect(await renew(try reinstalled(), owned: ["pending"]) == "purchase-pending")
        #expect(await renew(try reinstalled(), owned: ["elsewhere"]) == "device-limit")
        let service = try reinstalled()
        #expect(await renew(service, owned: ["refused", "full"]) == "attestation-refused", "no other purchase helps the device")
        #expect(await service.asked == ["refused full"])
        #expect(try world.license(store).id == old)
    }

    /// The Secure Enclave has lost the device key, and has a new one.
    @Test func anotherDeviceKey() async throws {
        let service = try reinstalled()
        let client = world.client(service, store, key: SoftwareDeviceKey(), owned: { [.appStore("full")] })
        #expect(await client.state(of: world.bundle) == .refused(.licenseDevice))
        let found = await outcome { try await client.renew(world.bundle, byDeviceKey: false) }
        #expect(found == "license-device", "this answer is for the old key")
        #expect(await service.asked == ["full full"], "no renewal is asked for")
    }

    /// The service says that the license has ended too long ago, or that it does not know it.
    @Test(arguments: ["license-expired", "license-unknown"]) func whatTheServiceRenewsNoMore(_ code: String) async throws {
        let problem = ServiceAnswer(
            status: 403, retryAfter: nil, body: Data(#"{"type":"urn:corelocker:problem:\#(code)","title":"T","status":403}"#.utf8))
        let service = TransactionService(["full": try world.answer("unlock")], renewal: problem)
        #expect(await renew(service, owned: []) == code)
        #expect(await renew(service, owned: ["full"]) == "ok")
        #expect(await service.asked == ["renewal", "renewal", "full full"])
    }

    /// A license that the user removes meanwhile does not come back.
    @Test func whatIsForgottenStaysAway() async throws {
        let (store, bundle) = (store, world.bundle.id)
        let client = world.client(
            try reinstalled(), store,
            owned: {
                store.removeLicense(bundle: bundle)
                return [.appStore("full")]
            })
        #expect(await outcome { try await client.renew(world.bundle, byDeviceKey: false) } == "not-unlocked")
        #expect(store.license(bundle: bundle) == nil)
    }

    /// The state says what to do: as long as the license works nothing, afterwards to hand over the purchase again.
    @Test func theStateSaysWhatToDo() async throws {
        let end = try #require(try world.license(store).expiresAt) + 86_400
        let wall = Locked(world.now)
        let client = world.client(try reinstalled(), store, wall: wall)
        var states = await client.states(of: world.bundle).makeAsyncIterator()
        _ = await states.next()
        #expect(await outcome { try await client.renew(world.bundle, byDeviceKey: false) } == "attestation-lost")
        guard case .unlocked("full", _) = await states.next() else {
            Issue.record("the license still works")
            return
        }
        wall.value = end
        #expect(await outcome { try await client.renew(world.bundle, byDeviceKey: false) } == "attestation-lost")
        let state = await states.next()
        #expect(state == .refused(.attestationLost))
        #expect(state?.recoverySuggestion == "Unlock the model again with the purchase, or restore purchases.")
    }

    @Test func suggestions() {
        #expect(UnlockState.unlocking.recoverySuggestion == nil)
        #expect(UnlockState.unlocked(tier: "full", until: nil).recoverySuggestion == nil)
        for state in [UnlockState.locked, .expired, .revoked, .offline(until: Date())] { #expect(state.recoverySuggestion != nil) }
        for code in ErrorCode.allCases {
            #expect(UnlockState.refused(code).recoverySuggestion == CoreLockerError(code, "").recoverySuggestion)
        }
    }
}
