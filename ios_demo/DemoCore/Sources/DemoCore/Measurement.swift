/// What a model is worth, and how fast it is.
public struct Measurement: Hashable, Sendable {
    /// Share of the pictures that get their label, from 0 to 1.
    public let accuracy: Double
    /// Median time of one picture.
    public let latency: Duration
    /// How many pictures.
    public let count: Int

    public init(accuracy: Double, latency: Duration, count: Int) {
        (self.accuracy, self.latency, self.count) = (accuracy, latency, count)
    }

    /// Runs the model on every picture. The first picture is run once more before, since the first run of a model takes longest.
    ///
    /// - Parameters:
    ///   - pictures: one at least.
    ///   - progress: told how many are done.
    /// - Throws: what the model throws; `CancellationError` when the task was cancelled.
    public static func take(
        _ classifier: any Classifier, on pictures: [LabelledImage], clock: some Clock<Duration> = ContinuousClock(),
        progress: @Sendable (Int) async -> Void
    ) async throws -> Measurement {
        if let first = pictures.first { _ = try await classifier.scores(first.image) }
        var right = 0
        var times: [Duration] = []
        for picture in pictures {
            try Task.checkCancellation()
            let start = clock.now
            let scores = try await classifier.scores(picture.image)
            times.append(start.duration(to: clock.now))
            if answer(scores) == picture.garment { right += 1 }
            await progress(times.count)
        }
        return Measurement(
            accuracy: pictures.isEmpty ? 0 : Double(right) / Double(pictures.count), latency: median(times), count: pictures.count)
    }

    /// The class with the largest number; nil when there is none.
    static func answer(_ scores: [Float]) -> Garment? {
        scores.indices.filter { scores[$0].isFinite }.max { scores[$0] < scores[$1] }.flatMap(Garment.init(rawValue:))
    }

    static func median(_ times: [Duration]) -> Duration {
        guard !times.isEmpty else { return .zero }
        let sorted = times.sorted()
        let middle = sorted.count / 2
        return sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
    }
}
