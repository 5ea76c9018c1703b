import CoreLocker
import Foundation

/// A model package whose locked files are restored in memory.
package struct RestoredPackage: Sendable {
    package let specification: Data
    /// By their paths as the specification names them.
    package let weights: [String: Data]

    /// - Parameters:
    ///   - url: the package in the app.
    ///   - restore: restores one of the artifact's files.
    /// - Throws: ``CoreLockerError`` with `fileAccess`, and what `restore` throws.
    package init(_ url: URL, _ artifact: BundledArtifact, restore: (URL) async throws -> RestoredFile) async throws {
        let package = try CoreMLPackage(url)
        let locked = Set(artifact.files.map { url.appendingPathComponent($0.path).standardizedFileURL.path })
        func content(_ file: URL) async throws -> Data {
            guard locked.contains(file.standardizedFileURL.path) else {
                do {
                    return try Data(contentsOf: file, options: .mappedIfSafe)
                } catch {
                    throw CoreLockerError(.fileAccess, "\(file.lastPathComponent) cannot be read")
                }
            }
            return try await restore(file).data
        }
        specification = try await content(package.specification)
        var weights: [String: Data] = [:]
        for file in package.weights { weights[file.path] = try await content(file.url) }
        self.weights = weights
    }

    /// The weights as Core ML takes them.
    package func mapping(_ form: BlobKey) -> [URL: Data] {
        Dictionary(uniqueKeysWithValues: weights.compactMap { path, data in form.url(path).map { ($0, data) } })
    }
}

/// How the mapping's keys name a file of weights. Apple's documentation says "blob URL" and no more; both forms are in use.
package enum BlobKey: CaseIterable, Sendable {
    case relative, file

    func url(_ path: String) -> URL? {
        switch self {
        case .relative: URL(string: path.addingPercentEncoding(withAllowedCharacters: .urlPathAllowed) ?? path)
        case .file: URL(fileURLWithPath: path)
        }
    }
}

/// Of several tries the first refusal counts: the later ones are of forms that were not meant.
package struct FirstRefusal {
    package private(set) var first: (any Error)?

    package init() {}

    /// Throws `CancellationError`, also where another error came of the cancellation.
    package mutating func add(_ error: any Error) throws {
        if error is CancellationError { throw error }
        try Task.checkCancellation()
        first = first ?? error
    }
}
