import CoreLocker
import Foundation
import Testing

@testable import DemoCore

/// What `tests/apple/demo_resources.py` has made.
private let folder = ProcessInfo.processInfo.environment["CORELOCKER_TEST_ENVIRONMENT"].map(URL.init(fileURLWithPath:))

/// The app without Apple's frameworks: its resources and its model layer with the real client, against the real unlock service.
/// `tests/apple/demo_resources.py` makes and starts all of it.
@MainActor
@Suite(.serialized, .enabled(if: folder != nil, "tests/apple/demo_resources.py runs these"))
struct ServiceTests {
    /// `CoreLocker` of an iPhone, with a device key in software.
    private struct Phone: Locker {
        let client: UnlockClient
        let bundle: KeyBundle

        var tiers: [String] { bundle.tiers }
        func states() async -> AsyncStream<UnlockState> { await client.states(of: bundle) }
        func license() async -> LicenseDetails? { (try? await client.license(for: bundle)).map(LicenseDetails.init) }
        func renewIfDue() async throws { try await client.renewIfDue(bundle) }
        func renew() async throws { try await client.renew(bundle) }
        func forget() async throws { try await client.forget(bundle) }
    }

    /// StoreKit with purchases as Xcode signs them.
    private struct Store: Storefront {
        let phone: Phone
        /// Signed transactions by product.
        let transactions: [String: String]

        func offers(_ catalog: Catalog) -> [Offer] {
            catalog.tiers.map { Offer(id: $0, tier: $1, name: $0, description: "", price: "", isSubscription: false) }
        }

        func buy(_ offer: Offer) async throws -> PurchaseOutcome {
            guard let transaction = transactions[offer.id] else { return .cancelled }
            try await phone.client.unlock(phone.bundle, tier: offer.tier, purchase: .appStore(transaction))
            return .unlocked
        }

        /// `restorePurchases` of the library.
        func restore(_ catalog: Catalog, report: @Sendable (any Error) -> Void) async -> Bool {
            for tier in phone.tiers.reversed() {
                for product in catalog.products where catalog.tiers[product] == tier {
                    guard let transaction = transactions[product] else { continue }
                    do {
                        try await phone.client.unlock(phone.bundle, tier: tier, purchase: .appStore(transaction))
                        return true
                    } catch {
                        report(error)
                    }
                }
            }
            return false
        }
    }

    private func file(_ path: String) throws -> URL { try #require(folder).appendingPathComponent(path) }

    private func app() throws -> DemoModel {
        let resources = try file("App.app")
        let configuration = try AppConfiguration(contentsOf: resources.appendingPathComponent("Models/corelocker.json"))
        let identity = try String(contentsOf: resources.appendingPathComponent("attestation.pem"), encoding: .utf8)
        let licenses = try file("licenses-\(UUID().uuidString)")
        let phone = Phone(
            client: UnlockClient(
                configuration: configuration, deviceKey: SoftwareDeviceKey(), attester: try DevelopmentIdentity(pem: identity),
                store: try FileLicenseStore(folder: licenses)),
            bundle: try KeyBundle(
                contentsOf: resources.appendingPathComponent("Models/fashion.clkey"), publisher: configuration.publisher))
        let transactions = try JSONDecoder().decode([String: String].self, from: Data(contentsOf: try file("transactions.json")))
        let catalog = try Catalog(Data(contentsOf: try file("products.json")))
        let pictures = try LabelledSet(
            images: Data(contentsOf: resources.appendingPathComponent("Pictures/images.idx3-ubyte")),
            labels: Data(contentsOf: resources.appendingPathComponent("Pictures/labels.idx1-ubyte")))
        #expect(pictures.images.count == 500)
        #expect(pictures.samples.map(\.garment) == Garment.allCases)
        return DemoModel(
            locker: phone, store: Store(phone: phone, transactions: transactions), catalog: catalog, loader: FakeLoader(),
            pictures: pictures)
    }

    private func wait(_ model: DemoModel, until title: Message) async throws {
        for _ in 0..<1000 where model.license.description.title != title { try await Task.sleep(for: .milliseconds(10)) }
        #expect(model.license.description.title == title)
    }

    @Test func buysTierByTierAndRestores() async throws {
        let model = try app()
        let run = Task { await model.run() }
        try await wait(model, until: Message("Locked"))
        await model.paywall.load()
        #expect(model.paywall.offers.first?.tier == "plus")

        for (product, tier) in [("plus", "plus"), ("full", "full")] {
            let offer = try #require(model.paywall.offers.first { $0.id == "com.example.fashion.\(product)" })
            #expect(model.paywall.standing(offer) == .buyable)
            await model.paywall.buy(offer)
            #expect(model.paywall.notice == nil)
            try await wait(model, until: Message("Unlocked: %@", .text(tier)))
            #expect(model.license.tier == tier)
            #expect(model.paywall.standing(offer) == .included)
        }
        #expect(model.license.details?.lines(formats).contains { $0.label == Message("Ends") } == true)

        await model.license.renew()
        #expect(model.license.failure == nil)
        await model.license.forget()
        try await wait(model, until: Message("Locked"))
        #expect(model.gallery.versions == [.locked])
        await model.perform(.restore)
        #expect(model.paywall.notice == Message("Purchases restored."))
        try await wait(model, until: Message("Unlocked: %@", .text("full")))
        run.cancel()
        await run.value
    }

    @Test func aRefundedPurchase() async throws {
        let model = try app()
        let run = Task { await model.run() }
        await model.paywall.buy(Offer(id: "refunded", tier: "full", name: "", description: "", price: "", isSubscription: false))
        #expect(model.paywall.notice == Refusal(.purchaseRevoked).advice)
        try await wait(model, until: Message("License withdrawn"))
        #expect(model.license.description.action == .restore)
        run.cancel()
        await run.value
    }
}
