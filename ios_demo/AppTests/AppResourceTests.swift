import CoreLockerCoreML
import DemoCore
import Foundation
import Testing

@testable import FashionDemo

/// What the build has put into the app, and what runs in a simulator without a purchase.
@MainActor
struct AppResourceTests {
    @Test func theAppStarts() {
        guard case .ready(let model) = Launch().outcome else {
            Issue.record("the app cannot start")
            return
        }
        #expect(model.license.tiers.first == "free")
    }

    @Test func theProductsUnlockTiersOfTheBundle() throws {
        let tiers = try CoreLocker().bundles[0].tiers
        #expect(Set(try Launch.catalog().tiers.values) == Set(tiers.dropFirst()))
    }

    @Test func picturesAreBundled() throws {
        let pictures = try Launch.pictures()
        #expect(pictures.images.count == 500)
        #expect(pictures.samples.map(\.garment) == Garment.allCases)
    }

    /// Both runtimes load the model as it ships, and it is of little use.
    @Test(arguments: ModelRuntime.allCases) func theShippedModelIsLocked(_ runtime: ModelRuntime) async throws {
        let loader = ModelLoader(locker: try CoreLocker())
        let classifier = try await loader.load(runtime, .locked)
        let measured = try await Measurement.take(classifier, on: Array(try Launch.pictures().images.prefix(100))) { _ in }
        #expect(measured.accuracy < 0.5)
        #expect(measured.latency > .zero)
    }

    @Test func bothLanguagesAreThere() throws {
        for (language, word) in [("en", "Locked"), ("de", "Gesperrt")] {
            let path = try #require(Bundle.main.path(forResource: language, ofType: "lproj"))
            #expect(Bundle(path: path)?.localizedString(forKey: "Locked", value: nil, table: nil) == word)
        }
        #expect(Message("On %lld bundled pictures, one after the other.", .number(500)).text.contains("500"))
    }

    /// A black square on white: it is inverted.
    @Test func readsPhotos() async throws {
        let png =
            "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAKElEQVR42mP8z4AfMDGMCAUsMAYjmsT/kRUOowqgyWA0XzAwMDAwAACtqgM/PQrkzQAAAABJRU5ErkJggg=="
        let data = try #require(Data(base64Encoded: png))
        let image = try #require(await PhotoReader.read(data))
        #expect(image.pixels[0] == 0)
        #expect(image.pixels[14 * GrayImage.side + 14] == 255)
        #expect(image.cgImage?.width == GrayImage.side)
        #expect(await PhotoReader.read(Data("no picture".utf8)) == nil)
    }
}
