import Observation

/// One picture, and what both versions of the model say about it.
@MainActor
@Observable
public final class GalleryModel {
    public enum Subject: Hashable, Sendable {
        case sample(LabelledImage)
        /// From the photo library.
        case photo(GrayImage)

        public var image: GrayImage {
            switch self {
            case .sample(let sample): sample.image
            case .photo(let image): image
            }
        }
    }

    public enum Answer: Hashable, Sendable {
        case working
        case predictions([Prediction])
        case failed(Message)
    }

    public let samples: [LabelledImage]
    public var runtime = ModelRuntime.coreML
    public private(set) var subject: Subject?
    public private(set) var answers: [ModelVersion: Answer] = [:]
    /// Why a picture could not be opened.
    public private(set) var failure: Message?

    private let loader: any ClassifierLoader
    private let license: LicenseModel

    public init(samples: [LabelledImage], loader: any ClassifierLoader, license: LicenseModel) {
        (self.samples, self.loader, self.license) = (samples, loader, license)
        subject = samples.first.map(Subject.sample)
    }

    /// Everything that an answer depends on; a view runs ``classify()`` anew when it changes.
    public struct Question: Hashable, Sendable {
        let subject: Subject?
        let runtime: ModelRuntime
        let license: LicenseDetails?
    }

    public var question: Question { Question(subject: subject, runtime: runtime, license: license.details) }

    /// The versions that there is something to say about: without a license the unlocked one is only for sale.
    public var versions: [ModelVersion] { license.details == nil ? [.locked] : [.locked, .unlocked] }

    public func show(_ sample: LabelledImage) { (subject, failure) = (.sample(sample), nil) }

    public func show(photo: GrayImage?) {
        guard let photo else {
            failure = Message("This picture cannot be opened.")
            return
        }
        (subject, failure) = (.photo(photo), nil)
    }

    /// Whether a picture's label, where it has one, is what the version says first; nil without a label or an answer.
    public func isRight(_ version: ModelVersion) -> Bool? {
        guard case .sample(let sample) = subject, case .predictions(let predictions) = answers[version] else { return nil }
        return predictions.first?.garment == sample.garment
    }

    /// Asks every version. Answers of a question that is no longer asked are dropped with its task.
    public func classify() async {
        guard let subject else { return }
        let (runtime, versions) = (runtime, versions)
        answers = Dictionary(uniqueKeysWithValues: versions.map { ($0, Answer.working) })
        for version in versions {
            let answer: Answer
            do {
                let scores = try await loader.load(runtime, version).scores(subject.image)
                answer = .predictions(Prediction.ranked(scores))
            } catch {
                guard let message = Message(error) else { return }
                answer = .failed(message)
            }
            guard !Task.isCancelled else { return }
            answers[version] = answer
        }
    }
}
