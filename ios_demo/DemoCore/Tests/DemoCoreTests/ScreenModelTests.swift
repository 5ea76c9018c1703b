import CoreLocker
import Foundation
import Testing

@testable import DemoCore

@MainActor
struct ScreenModelTests {
    private let locker = FakeLocker()
    private let loader = FakeLoader()
    private let license: LicenseModel

    init() { license = LicenseModel(locker) }

    private func own(_ tier: String) async {
        await locker.give(.unlocked(tier: tier, until: nil), .sample(tier: tier))
        await locker.finish()
        await license.follow {}
    }

    private func gallery() -> GalleryModel { GalleryModel(samples: pictures, loader: loader, license: license) }

    private func comparison() -> ComparisonModel {
        ComparisonModel(pictures: pictures, loader: loader, license: license, formats: formats)
    }

    @Test func classifiesWithTheLockedModelAlone() async {
        let model = gallery()
        model.show(pictures[3])
        await model.classify()
        #expect(model.versions == [.locked])
        #expect(model.isRight(.locked) == false)
        #expect(model.isRight(.unlocked) == nil)
    }

    @Test func classifiesWithBoth() async {
        await own("full")
        let model = gallery()
        model.runtime = .execuTorch
        model.show(pictures[3])
        await model.classify()
        #expect(model.isRight(.locked) == false)
        #expect(model.isRight(.unlocked) == true)
        #expect(await loader.loads == ["execuTorch locked", "execuTorch unlocked"])
    }

    @Test func aPhotoHasNoLabel() async {
        let model = gallery()
        model.show(photo: pictures[0].image)
        await model.classify()
        #expect(model.isRight(.locked) == nil)
        #expect(model.subject == .photo(pictures[0].image))
        model.show(photo: nil)
        #expect(model.failure == Message("This picture cannot be opened."))
        #expect(model.subject == .photo(pictures[0].image))
        model.show(pictures[1])
        #expect(model.failure == nil)
    }

    @Test func aModelThatCannotBeLoadedIsTold() async {
        await loader.fail(with: CoreLockerError(.fileAccess, "x"))
        let model = gallery()
        await model.classify()
        #expect(model.answers[.locked] == .failed(Refusal(.fileAccess).advice))
    }

    @Test func theQuestionChangesWithAllThatItDependsOn() async {
        let model = gallery()
        var questions: Set<GalleryModel.Question> = [model.question]
        model.show(pictures[5])
        questions.insert(model.question)
        model.runtime = .execuTorch
        questions.insert(model.question)
        await own("plus")
        questions.insert(model.question)
        #expect(questions.count == 4)
    }

    @Test func measuresBothVersions() async throws {
        await own("full")
        let model = comparison()
        await model.measure()
        #expect(model.phase == .idle)
        #expect(model.accuracies.map(\.value) == [10, 100])
        #expect(model.accuracies.map(\.text) == [Message("%@ right", .text("10.0%")), Message("%@ right", .text("100.0%"))])
        #expect(model.latencies.map(\.id) == ["coreML locked", "coreML unlocked"])
        model.runtime = .execuTorch
        await model.measure()
        #expect(model.accuracies.map(\.value) == [10, 100, 10, 100])
        #expect(model.measurement(.execuTorch, .unlocked)?.count == 10)
        let catalog = try StringCatalog()
        for bar in model.accuracies + model.latencies { #expect(catalog.holds(bar.text)) }
        #expect(catalog.holds(Message("On %lld bundled pictures, one after the other.", .number(model.pictureCount))))
    }

    @Test func measuresTheLockedVersionWithoutALicense() async {
        let model = comparison()
        #expect(!model.canCompare)
        await model.measure()
        #expect(model.accuracies.map(\.id) == ["coreML locked"])
    }

    @Test func anotherLicenseDropsWhatTheOldOneWasWorth() async {
        await own("plus")
        let model = comparison()
        await model.measure()
        model.licenseChanged()
        #expect(model.accuracies.map(\.id) == ["coreML locked"])
    }

    @Test func aFailureAndACancelledRun() async {
        let model = comparison()
        await loader.fail(with: CoreLockerError(.memory, "x"))
        await model.measure()
        #expect(model.phase == .failed(Refusal(.memory).advice))
        await loader.fail(with: CancellationError())
        await model.measure()
        #expect(model.phase == .idle)
    }

    @Test func startsAndStops() async {
        let model = comparison()
        await loader.stall(true)
        model.start()
        while !model.isMeasuring { await Task.yield() }
        model.cancel()
        while model.isMeasuring { await Task.yield() }
        #expect(model.phase == .idle)
        #expect(model.accuracies.isEmpty)
        await loader.stall(false)
        while model.accuracies.isEmpty {
            model.start()
            await Task.yield()
        }
        #expect(model.accuracies.map(\.value) == [10])
    }

    @Test func loadsOnceUntilTheLicenseChanges() async throws {
        let cache = ClassifierCache(loader)
        for _ in 0..<3 {
            _ = try await cache.load(.coreML, .locked)
            _ = try await cache.load(.coreML, .unlocked)
        }
        await cache.dropUnlocked()
        _ = try await cache.load(.coreML, .locked)
        _ = try await cache.load(.coreML, .unlocked)
        #expect(await loader.loads == ["coreML locked", "coreML unlocked", "coreML unlocked"])
    }

    @Test func whatFailedIsTriedAgain() async throws {
        let cache = ClassifierCache(loader)
        await loader.fail(with: FakeLocker.Trouble())
        await #expect(throws: FakeLocker.Trouble.self) { try await cache.load(.coreML, .locked) }
        await loader.fail(with: nil)
        _ = try await cache.load(.coreML, .locked)
        #expect(await loader.loads.count == 2)
    }

    @Test func theWholeApp() async {
        let store = FakeStore()
        let model = DemoModel(locker: locker, store: store, catalog: .sample, loader: loader, pictures: LabelledSet(images: pictures))
        let run = Task { await model.run() }
        model.gallery.show(pictures[4])
        await model.gallery.classify()
        #expect(model.gallery.isRight(.locked) == false)

        await model.perform(.buy)
        #expect(model.isPaywallShown)
        await model.paywall.load()
        await model.paywall.buy(.plus)
        await locker.give(.unlocked(tier: "plus", until: nil), .sample(tier: "plus"))
        while model.license.tier != "plus" { await Task.yield() }
        await model.gallery.classify()
        #expect(model.gallery.isRight(.unlocked) == true)

        // A higher tier is loaded anew.
        await locker.give(.unlocked(tier: "full", until: nil), .sample())
        while model.license.tier != "full" { await Task.yield() }
        await model.gallery.classify()
        #expect(await loader.loads == ["coreML locked", "coreML unlocked", "coreML unlocked"])
        await model.perform(.renew)
        await model.perform(.restore)
        #expect(await locker.calls == ["renew"])
        #expect(model.paywall.notice == Message("Purchases restored."))
        run.cancel()
        await run.value
    }
}
