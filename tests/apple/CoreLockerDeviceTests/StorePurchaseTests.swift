import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerDevice

/// What becomes of transactions: which one unlocks, and which are finished. The service's answers are those of `flow.json`.
@Suite struct StorePurchaseTests {
    private let world: FlowWorld
    private let store = MemoryStore()
    private let finished = Locked<[String]>([])
    private let reported = Locked<[String]>([])

    init() throws { world = try FlowWorld() }

    private func locker(_ service: TransactionService) throws -> CoreLocker {
        var resources: AppResources?
        try withTemporaryFile("app/note.txt", Data()) { url in
            try world.writeApp(url.deletingLastPathComponent())
            resources = try AppResources(folder: url.deletingLastPathComponent())
        }
        let read = try #require(resources)
        return CoreLocker(resources: read, client: world.client(service, store, configuration: read.configuration))
    }

    private func service(renewal: String? = nil) throws -> TransactionService {
        TransactionService(
            [
                "plus": try world.answer("license-for-another-tier"), "full": try world.answer("unlock"),
                "another": try world.answer("purchase-product"), "pending": try world.answer("purchase-pending"),
            ], renewal: try renewal.map(world.answer))
    }

    private func transaction(_ name: String, isVerified: Bool = true, isRevoked: Bool = false) -> FakeTransaction {
        FakeTransaction(jwsRepresentation: name, isVerified: isVerified, isRevoked: isRevoked, finished: finished)
    }

    private func bought(_ name: String, tier: String? = nil, isVerified: Bool = true, isRevoked: Bool = false)
        -> CoreLocker.Bought<FakeTransaction>
    { CoreLocker.Bought(transaction(name, isVerified: isVerified, isRevoked: isRevoked), CoreLocker.Right(tier: tier)) }

    private func report(_ error: any Error) { reported.value.append((error as? CoreLockerError)?.code.rawValue ?? "\(error)") }

    @Test func aPurchaseIsFinishedOnceItHasUnlocked() async throws {
        let locker = try locker(try service())
        #expect(await outcome { try await locker.unlock(bought("pending")) } == "purchase-pending")
        #expect(await outcome { try await locker.unlock(bought("full", isVerified: false)) } == "purchase-signature")
        #expect(await outcome { try await locker.unlock(bought("full", tier: "gold")) } == "bundle-mismatch")
        #expect(finished.value == [], "the App Store hands them out again")
        try await locker.unlock(bought("full"))
        #expect(finished.value == ["full"])
        #expect(try world.tier(store) == "full")
    }

    @Test func whatArrivesByItself() async throws {
        let service = try service()
        let locker = try locker(service)
        await locker.take(bought("pending", tier: "full"), owned: { [] }, report: report)
        #expect(finished.value == [] && reported.value == ["purchase-pending"])
        await locker.take(bought("full"), owned: { [] }, report: report)
        // A lower tier gives nothing more, and is settled.
        await locker.take(bought("plus", tier: "plus"), owned: { [] }, report: report)
        #expect(finished.value == ["full", "plus"] && reported.value.count == 1)
        #expect(await service.asked == ["pending full", "full full"])
        #expect(try world.tier(store) == "full")
    }

    @Test func aRefundEndsTheLicenseAndTheRestTakesItsPlace() async throws {
        store.save(try world.held("renew"), bundle: world.bundle.id)
        let service = try service(renewal: "renew-purchase-revoked")
        let locker = try locker(service)
        let owned = [bought("another", tier: "full"), bought("plus", tier: "plus"), bought("full", isRevoked: true)]
        await locker.take(bought("full", isRevoked: true), owned: { owned }, report: report)
        #expect(await service.asked == ["renewal", "another full", "plus plus"])
        #expect(try world.tier(store) == "plus")
        #expect(finished.value == ["plus", "full"] && reported.value == ["purchase-product"])
    }

    /// A refund that the service has not heard of: the transaction comes again.
    @Test func aRefundThatIsNotSettledIsNotFinished() async throws {
        store.save(try world.held("renew"), bundle: world.bundle.id)
        let locker = try locker(try service(renewal: "gives-up"))
        await locker.take(bought("full", isRevoked: true), owned: { [] }, report: report)
        #expect(finished.value == [] && reported.value == ["overloaded"])
        #expect(try world.tier(store) == "full")
    }

    /// Whatever the service says of a right that is gone, the refund is settled; without a license there is nothing to give back.
    @Test func aRefundOfWhatIsGoneIsFinished() async throws {
        for renewal in ["renew-purchase-superseded", "renew-license-revoked", "renew-device-inactive"] {
            store.save(try world.held("renew"), bundle: world.bundle.id)
            let locker = try locker(try service(renewal: renewal))
            await locker.take(bought(renewal, isRevoked: true), owned: { [] }, report: report)
        }
        store.removeLicense(bundle: world.bundle.id)
        let locker = try locker(try service())
        await locker.take(bought("no license", isRevoked: true), owned: { [] }, report: report)
        #expect(finished.value == ["renew-purchase-superseded", "renew-license-revoked", "renew-device-inactive", "no license"])
        #expect(reported.value == [])
    }

    @Test func theHighestThatIsOwnedUnlocks() async throws {
        let service = try service()
        let locker = try locker(service)
        let owned = [bought("plus", tier: "plus"), bought("full", isVerified: false), bought("full"), bought("x", tier: "gold")]
        #expect(try await locker.unlock(owned: owned, report: report) == 1)
        #expect(await service.asked == ["full full"])
        #expect(Set(finished.value) == ["full", "plus"])
        #expect(reported.value == ["purchase-signature", "bundle-mismatch"])
        #expect(try await locker.unlock(owned: [CoreLocker.Bought<FakeTransaction>](), report: report) == 0)
    }

    @Test func aRenewalThatIsDueTellsItsRefusal() async throws {
        store.save(try world.held("renew-after-the-end"), bundle: world.bundle.id)
        let locker = try locker(try service(renewal: "gives-up"))
        #expect(await outcome { try await locker.renewIfDue() } == "overloaded")
    }

    @Test func theClassKnowsItsModelAndItsLicense() async throws {
        let locker = try locker(try service())
        #expect(await outcome { _ = try await locker.restore("A.pte") } == "file-access")
        #expect(await outcome { _ = try await locker.restore("other.pte") } == "bundle-mismatch")
        #expect(await outcome { _ = try await locker.states(model: "other") } == "bundle-mismatch")
        try await locker.renewIfDue()
        var states = try await locker.states().makeAsyncIterator()
        #expect(await states.next() == .locked)
        try await locker.unlock(with: .appStore("full"), model: "vectors/small")
        while let state = await states.next() {
            if case .unlocked("full", _) = state { break }
        }
        #expect(try world.license(store).tier == "full")
    }
}
