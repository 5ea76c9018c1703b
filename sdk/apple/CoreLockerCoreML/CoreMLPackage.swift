import CoreLocker
import Foundation

/// The parts of a `.mlpackage`: which file holds the specification, and which hold weights.
///
/// `Manifest.json` names the specification as Apple's model package reader (coremltools, `ModelPackage`) takes it.
package struct CoreMLPackage: Sendable {
    /// A file of weights, and how the specification names it.
    package struct Weights: Equatable, Sendable {
        package let url: URL
        /// As in `@model_path/weights/weight.bin`, without the first part.
        package let path: String
    }

    package let specification: URL
    package let weights: [Weights]

    /// - Throws: ``CoreLockerError`` with `fileAccess` when the folder is no model package.
    package init(_ package: URL) throws {
        let refusal = CoreLockerError(.fileAccess, "\(package.lastPathComponent) is no model package")
        guard let data = try? Data(contentsOf: package.appendingPathComponent("Manifest.json")),
            // Not JSONDecoder: that of Linux stops the process at some damaged texts.
            let manifest = (try? JSONSerialization.jsonObject(with: data)) as? [String: Any],
            let items = manifest["itemInfoEntries"] as? [String: Any], let root = manifest["rootModelIdentifier"] as? String,
            let path = (items[root] as? [String: Any])?["path"] as? String,
            !path.split(separator: "/").contains("..")
        else { throw refusal }
        specification = package.appendingPathComponent("Data").appendingPathComponent(path)
        guard FileManager.default.fileExists(atPath: specification.path) else { throw refusal }
        let folder = specification.deletingLastPathComponent().appendingPathComponent("weights")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        weights = names.sorted().map { Weights(url: folder.appendingPathComponent($0), path: "weights/\($0)") }
    }
}
