import CoreLocker
import Foundation
import Testing

@testable import DemoCore

@MainActor
struct PaywallModelTests {
    private let store = FakeStore()
    private let locker = FakeLocker()
    private let license: LicenseModel
    private let model: PaywallModel

    init() {
        license = LicenseModel(locker)
        model = PaywallModel(store: store, catalog: .sample, license: license)
    }

    private func own(_ tier: String) async {
        await locker.give(.unlocked(tier: tier, until: nil), .sample(tier: tier))
        await locker.finish()
        await license.follow {}
    }

    @Test func offersTheLowestTierFirst() async {
        #expect(model.phase == .loading)
        await model.load()
        #expect(model.phase == .ready)
        #expect(model.offers == [.plus, .full])
        #expect(model.offers.map(model.standing) == [.buyable, .buyable])
    }

    @Test func whatIsOwnedIsIncluded() async {
        await own("plus")
        await model.load()
        #expect(model.offers.map(model.standing) == [.included, .buyable])
        await model.buy(.plus)
        #expect(await store.bought.isEmpty)
    }

    @Test func buys() async {
        await model.load()
        await model.buy(.full)
        #expect(await store.bought == ["app.full"])
        #expect(model.isDone && !model.isBusy && model.notice == nil)
        await model.load()
        #expect(!model.isDone)
    }

    @Test func purchasesThatDoNotUnlock() async {
        await store.answer(.success(.pending))
        await model.buy(.full)
        #expect(model.notice?.key.contains("approval") == true)
        await store.answer(.success(.cancelled))
        await model.buy(.full)
        #expect(model.notice == nil)
        await store.answer(.failure(CoreLockerError(.deviceLimit, "x")))
        await model.buy(.full)
        #expect(model.notice == Refusal(.deviceLimit).advice)
        #expect(!model.isDone && !model.isBusy)
    }

    @Test func aClosedStoreIsToldAndAskedAgain() async {
        await store.close()
        await model.load()
        #expect(model.phase == .failed(Refusal(.serviceUnreachable).advice))
        await store.open()
        await model.load()
        #expect(model.phase == .ready)
        // What is known stays when the store cannot be asked later.
        await store.close()
        await model.load()
        #expect(model.phase == .ready && model.offers.count == 2)
    }

    @Test func anEmptyStore() async throws {
        await store.sell([])
        await model.load()
        guard case .failed(let message) = model.phase else { throw FakeLocker.Trouble() }
        #expect(try StringCatalog().holds(message))
    }

    @Test func restores() async throws {
        let catalog = try StringCatalog()
        for (answer, key) in [(true, "Purchases restored."), (false, "There is no purchase to restore.")] {
            await store.restores(.success(answer))
            await model.restore()
            #expect(model.notice == Message(key))
            #expect(catalog.holds(Message(key)))
        }
        await store.restores(.failure(CoreLockerError(.purchaseRevoked, "x")))
        await model.restore()
        #expect(model.notice == Refusal(.purchaseRevoked).advice)
        #expect(!model.isRestoring)
    }

    @Test func aRefusalIsToldWhereNothingUnlocks() async {
        let refusals = [CoreLockerError(.deviceLimit, "x"), CoreLockerError(.purchaseRevoked, "x")]
        await store.restores(.success(false), refusing: refusals)
        await model.restore()
        #expect(model.notice == Refusal(.deviceLimit).advice)
        await store.restores(.success(true), refusing: refusals)
        await model.restore()
        #expect(model.notice == Message("Purchases restored."))
    }

    @Test func theCatalogIsTheFile() throws {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../../products.json")
        let catalog = try Catalog(Data(contentsOf: file.standardized))
        #expect(catalog.products.count == 3)
        #expect(catalog.tiers["com.example.fashion.plus"] == "plus" && catalog.tiers["com.example.fashion.full"] == "full")
    }

    /// Damaged files give an error or a catalog, and nothing worse.
    @Test func aDamagedCatalog() throws {
        for text in ["", "[]", "{", #"{"a":1}"#, #"{"a":null}"#, #"{"a":"b"} x"#] {
            #expect(throws: CoreLockerError.self, "\(text)") { try Catalog(Data(text.utf8)) }
        }
        let whole = Data(#"{"com.example.fashion.plus": "plus", "\u00e9": "1e400"}"#.utf8)
        #expect(try Catalog(whole).tiers.count == 2)
        for place in whole.indices {
            #expect(throws: CoreLockerError.self) { try Catalog(whole[..<place]) }
            for byte in [0x00, 0x22, 0x2d, 0x39, 0x5b, 0x5c, 0x7b, 0x80, 0xff] as [UInt8] {
                var damaged = whole
                damaged[place] = byte
                _ = try? Catalog(damaged)
            }
        }
    }
}
