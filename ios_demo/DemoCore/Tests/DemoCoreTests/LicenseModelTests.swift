import CoreLocker
import Foundation
import Testing

@testable import DemoCore

@MainActor
struct LicenseModelTests {
    private let locker = FakeLocker()

    /// Follows the states until the stream ends; returns what was shown whenever another license came.
    @discardableResult
    private func follow(_ model: LicenseModel) async -> [String?] {
        var before: [String?] = []
        await model.follow { before.append(model.tier) }
        return before
    }

    @Test func showsTheStateAndTheLicense() async {
        let model = LicenseModel(locker)
        #expect(model.state == .locked)
        await locker.give(.unlocked(tier: "plus", until: nil), .sample(tier: "plus"))
        await locker.finish()
        #expect(await follow(model) == [nil])
        #expect(model.state == .unlocked(tier: "plus", until: nil))
        #expect(model.tier == "plus")
        #expect(model.includes("free") && model.includes("plus") && !model.includes("full") && !model.includes("other"))
    }

    @Test func nothingIsIncludedWithoutALicense() {
        #expect(!LicenseModel(locker).includes("free"))
    }

    @Test func tellsWhenTheLicenseChangesAndOnlyThen() async {
        let model = LicenseModel(locker)
        async let changes = follow(model)
        for (state, license, shown) in [
            (UnlockState.unlocking, nil as LicenseDetails?, nil as String?),
            (.unlocked(tier: "plus", until: nil), .sample(tier: "plus"), "plus"),
            (.unlocking, .sample(tier: "plus"), "plus"), (.unlocked(tier: "full", until: nil), .sample(), "full"), (.revoked, nil, nil),
        ] {
            await locker.give(state, license)
            while model.state != state { await Task.yield() }
            #expect(model.tier == shown)
        }
        await locker.finish()
        // Before another license shows, so that nothing of the old one is used with it.
        #expect(await changes == [nil, "plus", "full"])
    }

    @Test func failuresAreTold() async {
        let model = LicenseModel(locker)
        await locker.fail(with: CoreLockerError(.serviceUnreachable, "x"))
        await model.renew()
        #expect(model.failure == Refusal(.serviceUnreachable).advice)
        #expect(!model.isBusy)
        await model.renewIfDue()
        await follow(model)
        #expect(model.failure == Refusal(.serviceUnreachable).advice)
        #expect(await locker.calls == ["renew", "renewIfDue"])
    }

    @Test func forgets() async {
        let model = LicenseModel(locker)
        await model.forget()
        #expect(await locker.calls == ["forget"])
        #expect(model.failure == nil)
    }

    @Test func followingEndsWithItsTask() async {
        let model = LicenseModel(locker)
        let task = Task { await model.follow {} }
        await locker.give(.expired)
        while model.state != .expired { await Task.yield() }
        task.cancel()
        await task.value
    }
}
