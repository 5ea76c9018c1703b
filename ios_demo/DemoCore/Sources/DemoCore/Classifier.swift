import Foundation

/// What runs the model.
public enum ModelRuntime: String, CaseIterable, Hashable, Sendable, Identifiable {
    case coreML, execuTorch

    public var id: Self { self }

    public var name: Message {
        switch self {
        case .coreML: Message("Core ML")
        case .execuTorch: Message("ExecuTorch")
        }
    }
}

/// The model as it ships, or as far as the license goes.
public enum ModelVersion: String, CaseIterable, Hashable, Sendable, Identifiable {
    case locked, unlocked

    public var id: Self { self }

    public var name: Message {
        switch self {
        case .locked: Message("Locked")
        case .unlocked: Message("Unlocked")
        }
    }
}

/// A loaded model.
public protocol Classifier: Sendable {
    /// One number for each class of ``Garment``; the largest is the answer.
    func scores(_ image: GrayImage) async throws -> [Float]
}

/// Loads models.
public protocol ClassifierLoader: Sendable {
    func load(_ runtime: ModelRuntime, _ version: ModelVersion) async throws -> any Classifier
}

/// What a model says about a picture.
public struct Prediction: Hashable, Sendable, Identifiable {
    public let garment: Garment
    /// From 0 to 1; all of a picture's add up to 1.
    public let probability: Double

    public var id: Garment { garment }

    /// The likeliest classes, the first one first. A model that is out of order may answer with no number at all; such answers count as
    /// equally likely.
    public static func ranked(_ scores: [Float], count: Int = 3) -> [Prediction] {
        let finite = scores.map { $0.isFinite ? Double($0) : 0 }
        let top = finite.max() ?? 0
        let weights = finite.map { exp($0 - top) }
        let sum = weights.reduce(0, +)
        let all = zip(Garment.allCases, weights).map { Prediction(garment: $0, probability: $1 / sum) }
        return Array(all.sorted { $0.probability > $1.probability }.prefix(count))
    }
}

/// Keeps loaded models, since loading takes longer than running. The unlocked ones are dropped when the license changes.
public actor ClassifierCache: ClassifierLoader {
    private struct Key: Hashable {
        let runtime: ModelRuntime
        let version: ModelVersion
    }

    private let loader: any ClassifierLoader
    private var loading: [Key: Task<any Classifier, any Error>] = [:]

    public init(_ loader: any ClassifierLoader) { self.loader = loader }

    public func load(_ runtime: ModelRuntime, _ version: ModelVersion) async throws -> any Classifier {
        let key = Key(runtime: runtime, version: version)
        let task = loading[key] ?? Task { [loader] in try await loader.load(runtime, version) }
        loading[key] = task
        do {
            return try await task.value
        } catch {
            // What failed may work the next time, unless another try has taken its place already.
            if loading[key] == task { loading[key] = nil }
            throw error
        }
    }

    /// Drops the models that were loaded with a license.
    public func dropUnlocked() { loading = loading.filter { $0.key.version != .unlocked } }
}
