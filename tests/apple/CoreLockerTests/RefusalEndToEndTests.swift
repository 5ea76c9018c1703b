import Foundation
import Testing

@testable import CoreLocker

/// What the client and the real unlock service refuse, and a line between them that fails; `tests/apple/end_to_end.py` starts them.
@Suite(.serialized, .enabled(if: EndToEndWorld.isThere, "tests/apple/end_to_end.py runs these"))
struct RefusalEndToEndTests {
    private typealias Device = EndToEndWorld.Device

    private let world: EndToEndWorld

    init() throws { world = try EndToEndWorld() }

    private var locked: URL { world.file("dist/fashion_mobilenet.safetensors") }
    private func original() throws -> Data { try world.data("original/dist/fashion_mobilenet.safetensors") }

    @Test func aSecondDevice() async throws {
        let (first, second, bundle) = (try Device(world), try Device(world), try world.bundle())
        let purchase = try await world.purchase("two-devices")
        try await first.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(await outcome { try await second.client.unlock(bundle, tier: "full", purchase: purchase) } == "device-limit")
        #expect(second.store.license(bundle: bundle.id) == nil)

        // With the first one's license, but without its key.
        let thief = try Device(world, store: first.store)
        #expect(await outcome { _ = try await thief.client.restore(locked, with: bundle) } == "license-device")
        #expect(await outcome { try await thief.client.renew(bundle) } == "license-device")
        #expect(try await first.client.restore(locked, with: bundle).data == original())
    }

    /// The purchase of a smaller plan unlocks no more than that.
    @Test func aDowngradedPurchase() async throws {
        let (device, bundle) = (try Device(world), try world.bundle())
        let smaller = try await world.purchase("smaller-plan", product: "plus")
        #expect(await outcome { try await device.client.unlock(bundle, tier: "full", purchase: smaller) } == "purchase-product")
        try await device.client.unlock(bundle, tier: "plus", purchase: smaller)
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle, tier: "full") } == "bundle-content-key")
    }

    @Test func aRenewalThatGivesLess() async throws {
        let (device, bundle) = (try Device(world), try world.bundle())
        try await device.client.unlock(bundle, tier: "plus", purchase: try await world.purchase("trial-of-full", product: "plus"))
        let plus = try await device.client.restore(locked, with: bundle).data
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("trial-of-full", seconds: 3))
        #expect(try await device.client.restore(locked, with: bundle).data == original())
        try await Task.sleep(nanoseconds: 4_000_000_000)
        try await device.client.renew(bundle)
        #expect(try await device.client.license(for: bundle).tier == "plus")
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle, tier: "full") } == "bundle-content-key")
        #expect(try await device.client.restore(locked, with: bundle).data == plus)
        guard case .unlocked("plus", _) = await device.client.state(of: bundle) else {
            Issue.record("another state")
            return
        }
    }

    @Test func aBadLineIsSurvived() async throws {
        let (device, bundle) = (try Device(world, configuration: "bad-line", attempts: 5), try world.bundle())
        let purchase = try await world.purchase("bad-line")
        // Of each try first the challenge fails, or else the request. The answer that gets lost was a license.
        try await world.setFaults(["drop", "busy", "slow", "drop-answer", "", "slow"])
        try await device.client.unlock(bundle, tier: "full", purchase: purchase)
        #expect(try await device.client.restore(locked, with: bundle).data == original())
        #expect(device.waits.value.count == 3 && device.waits.value[1] >= 1, "the second wait is the one that the service asked for")

        // In vain: what is held stays.
        let hurried = try Device(world, configuration: "bad-line", key: device.key, store: device.store)
        try await world.setFaults(["busy", "busy"])
        #expect(await outcome { try await hurried.client.renew(bundle) } == "service-busy")
        try await world.setFaults(["drop", "drop"])
        #expect(await outcome { try await hurried.client.renew(bundle) } == "service-unreachable")
        try await world.setFaults(["garbage"])
        #expect(await outcome { try await hurried.client.renew(bundle) } == "service-protocol")
        #expect(try await hurried.client.restore(locked, with: bundle).data == original())
    }

    @Test func clocksDecide() async throws {
        let (device, bundle) = (try Device(world), try world.bundle())
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("trial", seconds: 3600))
        device.clock.value = -3 * 86_400
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "license-clock")
        device.clock.value = 0
        _ = try await device.client.restore(locked, with: bundle)
        device.clock.value = 400 * 86_400
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "license-expired")
        #expect(await device.client.state(of: bundle) == .expired)
    }

    @Test func revocationEndsTheRight() async throws {
        let (device, bundle) = (try Device(world), try world.bundle())
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("revoked"))
        var states = await device.client.states(of: bundle).makeAsyncIterator()
        guard case .unlocked = await states.next() else {
            Issue.record("not unlocked")
            return
        }
        try await world.revoke(try await device.client.license(for: bundle))
        #expect(await outcome { try await device.client.renew(bundle) } == "license-revoked")
        #expect(await states.next() == .revoked)
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "not-unlocked")
    }

    @Test func whatDoesNotBelongIsRefused() async throws {
        let (device, bundle) = (try Device(world), try world.bundle())
        let other = try Device(world, configuration: "other-app")
        let purchase = try await world.purchase("order")
        #expect(await outcome { try await other.client.unlock(bundle, tier: "full", purchase: purchase) } == "app-unknown")
        #expect(
            await outcome { try await device.client.unlock(bundle, tier: "full", purchase: .grant("a.b.c")) }
                == "purchase-format")
        // What was unlocked for one app is of no use to another one with the same keys.
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("wrong-app"))
        let copied = try Device(world, configuration: "other-app", key: device.key, store: device.store)
        #expect(await outcome { _ = try await copied.client.restore(locked, with: bundle) } == "license-audience")
    }

    /// A byte of each part of the key bundle, and another publisher.
    @Test func aTamperedBundle() async throws {
        let (device, whole) = (try Device(world), try world.data("dist/demo.clkey"))
        let signatureAt = 12 + Int(whole[8]) + Int(whole[9]) << 8 + Int(whole[10]) << 16
        let publisher = try world.configuration().publisher
        for (place, code) in [(0, "bundle-magic"), (6, "bundle-version"), (40, "bundle-header"), (signatureAt, "bundle-signature")] {
            var tampered = whole
            tampered[place] ^= 1
            #expect(outcome { _ = try KeyBundle(tampered, publisher: publisher) } == code, "byte \(place)")
        }
        // A digest that is well-formed, and not the publisher's.
        var swapped = whole
        let digest = try #require(whole.range(of: Data(#""sha256":""#.utf8))).upperBound
        swapped[digest] = swapped[digest] == UInt8(ascii: "0") ? UInt8(ascii: "1") : UInt8(ascii: "0")
        #expect(outcome { _ = try KeyBundle(swapped, publisher: publisher) } == "bundle-signature")
        #expect(outcome { _ = try KeyBundle(whole.dropLast(), publisher: publisher) } == "bundle-truncated")
        #expect(outcome { _ = try KeyBundle(whole + [0], publisher: publisher) } == "bundle-trailing")
        #expect(outcome { _ = try KeyBundle(whole, publisher: String(repeating: "A", count: 43)) } == "bundle-publisher")

        var patched = whole
        patched[whole.count - 1] ^= 1
        let bundle = try KeyBundle(patched, publisher: publisher)
        try await device.client.unlock(bundle, tier: "full", purchase: try await world.purchase("tampered"))
        #expect(await outcome { _ = try await device.client.restore(locked, with: bundle) } == "bundle-content-key")
    }

    @Test func theServiceIsDown() async throws {
        let (device, bundle) = (try Device(world, configuration: "unreachable"), try world.bundle())
        let purchase = try await world.purchase("down")
        #expect(await outcome { try await device.client.unlock(bundle, tier: "full", purchase: purchase) } == "service-unreachable")
        #expect(await device.client.state(of: bundle) == .locked)
    }
}
