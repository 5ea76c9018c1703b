import CoreLocker
import Foundation

/// A copy of a model in the app's temporary folder, into which restored files are written: the way that leaves plain bytes in storage.
package struct ExposedCopy: Sendable {
    private let folder: URL
    /// The copy, under the model's own name.
    package let url: URL

    /// Copies the model at `original`. Throws ``CoreLockerError`` with `fileAccess`.
    package init(of original: URL, in temporary: URL = FileManager.default.temporaryDirectory) throws {
        folder = temporary.appendingPathComponent("corelocker-\(UUID().uuidString)")
        url = folder.appendingPathComponent(original.lastPathComponent)
        do {
            var attributes: [FileAttributeKey: Any] = [.posixPermissions: 0o700]
            #if canImport(Darwin)
                attributes[.protectionKey] = FileProtectionType.complete
            #endif
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false, attributes: attributes)
            var excluded = folder
            var values = URLResourceValues()
            values.isExcludedFromBackup = true
            try excluded.setResourceValues(values)
            try FileManager.default.copyItem(at: original, to: url)
        } catch {
            remove()
            throw CoreLockerError(.fileAccess, "\(original.lastPathComponent) cannot be copied to the temporary folder")
        }
    }

    /// Writes a restored file over the locked one. Throws ``CoreLockerError`` with `fileAccess`.
    package func replace(_ path: String, by file: RestoredFile) throws {
        let place = url.appendingPathComponent(path)
        do {
            #if canImport(Darwin)
                try file.data.write(to: place, options: [.atomic, .completeFileProtection])
            #else
                try file.data.write(to: place, options: .atomic)
            #endif
        } catch {
            throw CoreLockerError(.fileAccess, "\(place.lastPathComponent) cannot be written to the temporary folder")
        }
    }

    /// Removes the copy.
    package func remove() { try? FileManager.default.removeItem(at: folder) }
}
