import Foundation

/// What an app's package holds for this library: `corelocker.json`, key bundles and locked models.
package struct AppResources: Sendable {
    package let configuration: AppConfiguration
    package let bundles: [KeyBundle]
    private let folders: [URL]

    /// Reads `corelocker.json` and every `.clkey` file in `folder` and the folders directly below it.
    ///
    /// - Throws: ``CoreLockerError``: `fileAccess` without a configuration, else that of what cannot be read.
    package init(folder: URL) throws {
        let below = Self.contents(folder).filter { (try? $0.resourceValues(forKeys: [.isDirectoryKey]))?.isDirectory ?? false }
        folders = [folder] + below.sorted { $0.path < $1.path }
        guard let file = Self.find("corelocker.json", folders) else {
            throw CoreLockerError(.fileAccess, "The app holds no corelocker.json")
        }
        let configuration = try AppConfiguration(contentsOf: file)
        self.configuration = configuration
        bundles = try folders.flatMap(Self.contents).filter { $0.pathExtension == "clkey" }.sorted { $0.path < $1.path }
            .map { try KeyBundle(contentsOf: $0, publisher: configuration.publisher) }
    }

    /// The key bundle of a model id. Without one the app has a single bundle. Throws `bundleMismatch`.
    package func bundle(of model: String?) throws -> KeyBundle {
        let fitting = bundles.filter { model == nil || $0.model == model }
        guard fitting.count == 1, let bundle = fitting.first else {
            let there = bundles.map(\.model).joined(separator: ", ")
            throw CoreLockerError(
                .bundleMismatch, "The app needs one key bundle for \(model ?? "what is unlocked"); it has \(there.isEmpty ? "none" : there)"
            )
        }
        return bundle
    }

    /// Where a locked artifact lies, and the bundle that unlocks it.
    ///
    /// - Parameter names: the file or folder, by its name in the bundle; the first that is there counts. A file that lies beside an artifact which
    ///   is one file, as the `.ptd` of a `.pte`, has its own name.
    /// - Throws: `bundleMismatch` when no bundle knows one, `fileAccess` when the app does not hold it.
    package func artifact(named names: [String]) throws -> (url: URL, bundle: KeyBundle, artifact: BundledArtifact) {
        let known = bundles.flatMap { bundle in bundle.artifacts.map { (bundle, $0) } }.filter { !$0.1.names.isDisjoint(with: names) }
        guard !known.isEmpty else {
            throw CoreLockerError(.bundleMismatch, "No key bundle of the app unlocks \(names.joined(separator: " or "))")
        }
        for name in names {
            if let url = Self.find(name, folders), let (bundle, artifact) = known.first(where: { $0.1.names.contains(name) }) {
                return (url, bundle, artifact)
            }
        }
        throw CoreLockerError(.fileAccess, "The app does not hold \(names.joined(separator: " or ")); add it as an opaque resource")
    }

    private static func contents(_ folder: URL) -> [URL] {
        (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: [.isDirectoryKey])) ?? []
    }

    private static func find(_ name: String, _ folders: [URL]) -> URL? {
        folders.map { $0.appendingPathComponent(name) }.first { FileManager.default.fileExists(atPath: $0.path) }
    }
}
