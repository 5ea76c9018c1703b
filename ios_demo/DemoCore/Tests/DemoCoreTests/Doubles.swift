import CoreLocker
import Foundation

@testable import DemoCore

/// A library whose states and licenses the test gives.
actor FakeLocker: Locker {
    struct Trouble: Error {}

    nonisolated let tiers = ["free", "plus", "full"]
    private let (stream, continuation) = AsyncStream<UnlockState>.makeStream()
    private var current: LicenseDetails?
    private var error: (any Error)?
    private(set) var calls: [String] = []

    func give(_ state: UnlockState, _ license: LicenseDetails? = nil) {
        current = license
        continuation.yield(state)
    }

    func finish() { continuation.finish() }

    func fail(with error: any Error) { self.error = error }

    func states() throws -> AsyncStream<UnlockState> {
        if let error { throw error }
        return stream
    }

    func license() -> LicenseDetails? { current }

    func renewIfDue() throws { try note("renewIfDue") }
    func renew() throws { try note("renew") }
    func forget() throws { try note("forget") }

    private func note(_ call: String) throws {
        calls.append(call)
        if let error { throw error }
    }
}

extension LicenseDetails {
    static func sample(tier: String = "full", ends: Date? = nil) -> LicenseDetails {
        LicenseDetails(
            id: "license-1", tier: tier, modelVersion: 3, issuer: "https://unlock.example.com", issued: Date(timeIntervalSince1970: 0),
            renews: ends.map { Date(timeIntervalSince1970: $0.timeIntervalSince1970 * 2 / 3) }, ends: ends, device: "thumbprint")
    }
}

/// A store whose answers the test gives.
actor FakeStore: Storefront {
    var found: [Offer]
    private var outcome: Result<PurchaseOutcome, any Error> = .success(.unlocked)
    private var restored: Result<Bool, any Error> = .success(true)
    private var refusals: [any Error] = []
    private var isClosed = false
    private(set) var bought: [String] = []

    init(_ found: [Offer] = [.full, .plus]) { self.found = found }

    func answer(_ outcome: Result<PurchaseOutcome, any Error>) { self.outcome = outcome }
    func restores(_ restored: Result<Bool, any Error>, refusing refusals: [any Error] = []) {
        (self.restored, self.refusals) = (restored, refusals)
    }
    func close() { isClosed = true }
    func open() { isClosed = false }
    func sell(_ offers: [Offer]) { found = offers }

    func offers(_ catalog: Catalog) throws -> [Offer] {
        if isClosed { throw CoreLockerError(.serviceUnreachable, "closed") }
        return found.filter { catalog.tiers[$0.id] == $0.tier }
    }

    func buy(_ offer: Offer) throws -> PurchaseOutcome {
        bought.append(offer.id)
        return try outcome.get()
    }

    func restore(_ catalog: Catalog, report: @Sendable (any Error) -> Void) throws -> Bool {
        refusals.forEach(report)
        return try restored.get()
    }
}

extension Offer {
    static let plus = Offer(id: "app.plus", tier: "plus", name: "Plus", description: "", price: "$1.99", isSubscription: false)
    static let full = Offer(id: "app.full", tier: "full", name: "Full", description: "", price: "$4.99", isSubscription: false)
}

extension Catalog {
    static let sample = Catalog(tiers: ["app.plus": "plus", "app.full": "full"])
}

/// Answers with the class of a picture's first pixel; the locked version always with the first class.
struct FakeClassifier: Classifier {
    let version: ModelVersion
    /// Answers only when its task is cancelled.
    var isStalled = false

    func scores(_ image: GrayImage) async throws -> [Float] {
        if isStalled { try await Task.sleep(for: .seconds(3600)) }
        let answer = version == .locked ? 0 : Int(image.pixels[0])
        return Garment.allCases.map { $0.rawValue == answer ? 5 : 0 }
    }
}

actor FakeLoader: ClassifierLoader {
    private(set) var loads: [String] = []
    private var error: (any Error)?
    private var isStalled = false

    func fail(with error: (any Error)?) { self.error = error }
    func stall(_ isStalled: Bool) { self.isStalled = isStalled }

    func load(_ runtime: ModelRuntime, _ version: ModelVersion) throws -> any Classifier {
        loads.append("\(runtime) \(version)")
        if let error { throw error }
        return FakeClassifier(version: version, isStalled: isStalled)
    }
}

/// A clock that goes on by a step each time it is read.
final class SteppingClock: Clock, @unchecked Sendable {
    private let lock = NSLock()
    private let step: Duration
    private var time = ContinuousClock.now

    init(step: Duration) { self.step = step }

    var minimumResolution: Duration { .zero }
    var now: ContinuousClock.Instant {
        lock.withLock {
            time = time.advanced(by: step)
            return time
        }
    }
    func sleep(until deadline: ContinuousClock.Instant, tolerance: Duration?) async throws {}
}

/// A picture that ``FakeClassifier`` knows, when unlocked, to be the garment.
func picture(_ id: Int, _ garment: Garment) -> LabelledImage {
    var pixels = [UInt8](repeating: 0, count: GrayImage.side * GrayImage.side)
    pixels[0] = UInt8(garment.rawValue)
    guard let image = GrayImage(pixels: pixels) else { fatalError("28 x 28 pixels") }
    return LabelledImage(id: id, image: image, garment: garment)
}

let pictures = Garment.allCases.enumerated().map { picture($0.offset, $0.element) }

/// English, with a zone of its own: tests read the same everywhere.
let formats = Formats(locale: Locale(identifier: "en_US"), timeZone: TimeZone(secondsFromGMT: 0) ?? .current)
