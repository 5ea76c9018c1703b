#if canImport(CoreML)
    import CoreML
    @_exported import CoreLockerDevice
    import Foundation
    import ObjectiveC

    /// How a restored model reaches Core ML.
    ///
    /// ```swift
    /// let model = try await locker.model(named: "Classifier", loading: .diskExposed)
    /// ```
    public enum CoreMLLoading: Sendable {
        /// Out of memory: this library writes no restored byte to storage. Needs iOS 18 or macOS 15. What Core ML itself keeps in its caches is up to
        /// the system, and it may compute slower than from a file.
        case inMemory
        /// By way of a folder in the app's temporary directory that holds the restored model, readable only while the device is unlocked, not backed
        /// up, and removed when the model is loaded, or after a crash with the next model. Core ML compiles a package into a temporary folder of
        /// its own choice first, without that protection; from there the result is moved. Who can read the app's files at that moment can copy the
        /// model; Core ML may keep what it compiled in its caches. For older systems and for compiled models (`.mlmodelc`); it may run faster.
        case diskExposed
    }

    /// What Core ML cannot do here.
    ///
    /// ```swift
    /// do {
    ///     model = try await locker.model(named: "Classifier")
    /// } catch CoreMLLoadingError.needsDiskExposed {
    ///     model = try await locker.model(named: "Classifier", loading: .diskExposed)
    /// }
    /// ```
    public enum CoreMLLoadingError: Error, LocalizedError, Equatable {
        /// The system is older than iOS 18 and macOS 15, or the model is compiled already.
        case needsDiskExposed

        public var errorDescription: String? { "This model cannot be loaded out of memory here" }
        public var recoverySuggestion: String? { "Load it with .diskExposed, if a copy in storage is acceptable for a moment." }
    }

    extension CoreLocker {
        /// The model `name`.mlpackage or `name`.mlmodelc of the app, as far as the license goes. Without a license that is the model as it ships:
        /// locked.
        ///
        /// ```swift
        /// let model = try await locker.model(named: "Classifier")
        /// ```
        ///
        /// - Parameters:
        ///   - name: the artifact's name in the key bundle, without its extension.
        ///   - configuration: handed to Core ML as it is: compute units, the function of a multi-function model.
        ///   - loading: how a restored model reaches Core ML; of no account for one that is used as it ships.
        /// - Throws: ``CoreLockerError`` with one of the `bundle-`, `patch-` and `restore-` codes, `fileAccess` when the app does not hold the model;
        ///   ``CoreMLLoadingError``; what Core ML throws.
        public func model(
            named name: String, configuration: sending MLModelConfiguration = MLModelConfiguration(), loading: CoreMLLoading = .inMemory
        ) async throws -> sending MLModel {
            _ = ExposedCopy.leftoversAreGone
            let found = try resources.artifact(named: ["\(name).mlpackage", "\(name).mlmodelc"])
            guard (try? await client.license(for: found.bundle)) != nil else {
                return try await Self.loadPlain(found.url, configuration)
            }
            switch loading {
            case .inMemory:
                guard #available(iOS 18, macOS 15, *), found.url.pathExtension == "mlpackage" else {
                    throw CoreMLLoadingError.needsDiskExposed
                }
                let restored = try await RestoredPackage(found.url, found.artifact) {
                    try await self.client.restore($0, with: found.bundle)
                }
                return try await restored.load(configuration)
            case .diskExposed:
                let exposed = try ExposedCopy(of: found.url)
                defer { exposed.remove() }
                for file in found.artifact.files {
                    let place = found.url.appendingPathComponent(file.path)
                    try exposed.replace(file.path, by: try await client.restore(place, with: found.bundle))
                }
                return try await Self.loadPlain(exposed.url, configuration, into: exposed)
            }
        }

        private static func loadPlain(
            _ url: URL, _ configuration: sending MLModelConfiguration, into exposed: ExposedCopy? = nil
        ) async throws -> sending MLModel {
            guard url.pathExtension == "mlpackage" else {
                return try await MLModel.load(contentsOf: url, configuration: configuration)
            }
            var compiled = try await MLModel.compileModel(at: url)
            defer { try? FileManager.default.removeItem(at: compiled) }
            if let exposed { compiled = try exposed.take(compiled) }
            return try await MLModel.load(contentsOf: compiled, configuration: configuration)
        }
    }

    @available(iOS 18, macOS 15, *)
    extension RestoredPackage {
        /// The model out of memory. It keeps the restored weights as long as it lives.
        func load(_ configuration: sending MLModelConfiguration) async throws -> sending MLModel {
            var refusals = FirstRefusal()
            for form in BlobKey.allCases {
                do {
                    let asset = try MLModelAsset(specification: specification, blobMapping: mapping(form))
                    let model = try await MLModel.load(asset: asset, configuration: configuration)
                    Keeper(specification: specification, weights: Array(weights.values)).attach(to: model)
                    return model
                } catch {
                    try refusals.add(error)
                }
            }
            throw refusals.first ?? CoreMLLoadingError.needsDiskExposed
        }
    }

    /// Keeps the mappings as long as the model: Core ML may read the blobs after it has loaded.
    private final class Keeper {
        private static let key: StaticString = "corelocker.keeper"

        private let specification: Data
        private let weights: [Data]

        init(specification: Data, weights: [Data]) { (self.specification, self.weights) = (specification, weights) }

        func attach(to model: MLModel) {
            objc_setAssociatedObject(model, UnsafeRawPointer(Self.key.utf8Start), self, .OBJC_ASSOCIATION_RETAIN)
        }
    }
#endif
