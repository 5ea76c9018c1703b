import Foundation
import Testing

@testable import DemoCore

struct MeasurementTests {
    @Test func accuracyAndLatency() async throws {
        let clock = SteppingClock(step: .milliseconds(3))
        let locked = try await Measurement.take(FakeClassifier(version: .locked), on: pictures, clock: clock) { _ in }
        #expect(locked == Measurement(accuracy: 0.1, latency: .milliseconds(3), count: 10))
        let unlocked = try await Measurement.take(FakeClassifier(version: .unlocked), on: pictures, clock: clock) { _ in }
        #expect(unlocked.accuracy == 1)
    }

    @Test func tellsOfItsProgress() async throws {
        let (stream, continuation) = AsyncStream<Int>.makeStream()
        _ = try await Measurement.take(FakeClassifier(version: .locked), on: pictures) { continuation.yield($0) }
        continuation.finish()
        #expect(await stream.reduce(into: []) { $0.append($1) } == Array(1...10))
    }

    @Test func nothingToMeasure() async throws {
        let measured = try await Measurement.take(FakeClassifier(version: .locked), on: []) { _ in }
        #expect(measured == Measurement(accuracy: 0, latency: .zero, count: 0))
    }

    @Test func stopsWhenCancelled() async {
        let task = Task {
            try await Measurement.take(FakeClassifier(version: .locked), on: pictures) { _ in
                withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        await #expect(throws: CancellationError.self) { try await task.value }
    }

    @Test func median() {
        #expect(Measurement.median([.seconds(5), .seconds(1), .seconds(2)]) == .seconds(2))
        #expect(Measurement.median([.seconds(4), .seconds(1), .seconds(2), .seconds(3)]) == .milliseconds(2500))
    }

    @Test func answersOfABrokenModel() {
        #expect(Measurement.answer([.nan, 1, .infinity]) == .trouser)
        #expect(Measurement.answer([.nan, .nan]) == nil)
        #expect(Measurement.answer([]) == nil)
        let ranked = Prediction.ranked([Float](repeating: .nan, count: 10), count: 10)
        #expect(ranked.map(\.probability).allSatisfy { abs($0 - 0.1) < 1e-12 })
    }

    @Test func ranksByProbability() {
        #expect(Prediction.ranked([0, 1, 3, 2, 0, 0, 0, 0, 0, 4]).map(\.garment) == [.ankleBoot, .pullover, .dress])
        #expect(Prediction.ranked([0, 1, 3, 2, 0, 0, 0, 0, 0, 1000]).first?.probability == 1)
        let sum = Prediction.ranked([0.5, -2, 3, 1, 0, 0, 0, 0, 0, 1], count: 10).map(\.probability).reduce(0, +)
        #expect(abs(sum - 1) < 1e-9)
    }
}
