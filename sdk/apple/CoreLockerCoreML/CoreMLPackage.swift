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
        struct Manifest: Decodable {
            struct Item: Decodable { let path: String }
            let rootModelIdentifier: String
            let itemInfoEntries: [String: Item]
        }
        let refusal = CoreLockerError(.fileAccess, "\(package.lastPathComponent) is no model package")
        guard let data = try? Data(contentsOf: package.appendingPathComponent("Manifest.json")),
            let manifest = try? JSONDecoder().decode(Manifest.self, from: data),
            let path = manifest.itemInfoEntries[manifest.rootModelIdentifier]?.path,
            !path.split(separator: "/").contains("..")
        else { throw refusal }
        specification = package.appendingPathComponent("Data").appendingPathComponent(path)
        guard FileManager.default.fileExists(atPath: specification.path) else { throw refusal }
        let folder = specification.deletingLastPathComponent().appendingPathComponent("weights")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        weights = names.sorted().map { Weights(url: folder.appendingPathComponent($0), path: "weights/\($0)") }
    }
}
