import Observation

/// Accuracy and latency of the model before and after it was unlocked, measured on the bundled pictures.
@MainActor
@Observable
public final class ComparisonModel {
    public enum Phase: Hashable, Sendable {
        case idle
        /// From 0 to 1.
        case measuring(Double)
        case failed(Message)
    }

    /// A bar of a chart.
    public struct Bar: Hashable, Sendable, Identifiable {
        public let runtime: ModelRuntime
        public let version: ModelVersion
        public let value: Double
        /// The value with its unit.
        public let text: Message

        public var id: String { "\(runtime.rawValue) \(version.rawValue)" }
    }

    private struct Key: Hashable {
        let runtime: ModelRuntime
        let version: ModelVersion
    }

    public private(set) var phase = Phase.idle
    public var runtime = ModelRuntime.coreML

    private var task: Task<Void, Never>?
    private var measured: [Key: Measurement] = [:]
    private let pictures: [LabelledImage]
    private let loader: any ClassifierLoader
    private let license: LicenseModel
    private let formats: Formats

    public init(
        pictures: [LabelledImage], loader: any ClassifierLoader, license: LicenseModel, formats: Formats = Formats()
    ) {
        (self.pictures, self.loader, self.license, self.formats) = (pictures, loader, license, formats)
    }

    public var pictureCount: Int { pictures.count }
    public var isMeasuring: Bool { if case .measuring = phase { true } else { false } }
    public var canCompare: Bool { license.details != nil }

    public func measurement(_ runtime: ModelRuntime, _ version: ModelVersion) -> Measurement? {
        measured[Key(runtime: runtime, version: version)]
    }

    /// In percent.
    public var accuracies: [Bar] {
        bars { Bar(runtime: $0, version: $1, value: 100 * $2.accuracy, text: Message("%@ right", .text(formats.percent($2.accuracy)))) }
    }

    /// In milliseconds.
    public var latencies: [Bar] {
        bars {
            Bar(
                runtime: $0, version: $1, value: $2.latency / .milliseconds(1),
                text: Message("%@ ms", .text(formats.milliseconds($2.latency))))
        }
    }

    private func bars(_ bar: (ModelRuntime, ModelVersion, Measurement) -> Bar) -> [Bar] {
        ModelRuntime.allCases.flatMap { runtime in
            ModelVersion.allCases.compactMap { version in measurement(runtime, version).map { bar(runtime, version, $0) } }
        }
    }

    /// Starts ``measure()``; it goes on while other screens are looked at.
    public func start() {
        guard task == nil else { return }
        task = Task {
            await measure()
            task = nil
        }
    }

    public func cancel() { task?.cancel() }

    /// Measures the chosen runtime: the locked model, and with a license the unlocked one. A cancelled run keeps what it has measured.
    public func measure() async {
        guard !isMeasuring else { return }
        let runtime = runtime
        let versions: [ModelVersion] = canCompare ? [.locked, .unlocked] : [.locked]
        let details = license.details
        phase = .measuring(0)
        let total = Double(versions.count * pictures.count)
        do {
            for (index, version) in versions.enumerated() {
                let classifier = try await loader.load(runtime, version)
                let before = index * pictures.count
                let result = try await Measurement.take(classifier, on: pictures) { done in
                    // Telling of every picture would take longer than the model.
                    if done.isMultiple(of: 10) { await self.advance(to: Double(before + done) / total) }
                }
                guard version == .locked || license.details == details else { break }
                measured[Key(runtime: runtime, version: version)] = result
            }
            phase = .idle
        } catch {
            phase = Message(error).map(Phase.failed) ?? .idle
        }
    }

    private func advance(to share: Double) { phase = .measuring(share) }

    /// Drops what was measured with the license that is no longer there.
    public func licenseChanged() { measured = measured.filter { $0.key.version == .locked } }
}
