import CoreLocker
import Foundation

/// A copy of a model in the app's temporary folder, into which restored files are written: the way that leaves plain bytes in storage.
package struct ExposedCopy: Sendable {
    private static let prefix = "corelocker-\(Bundle.main.bundleIdentifier ?? "app")-"

    /// What a crash has left is removed once, before this process makes its first copy.
    package static let leftoversAreGone: Void = removeLeftovers(in: FileManager.default.temporaryDirectory)

    private let folder: URL
    /// The copy, under the model's own name.
    package let url: URL

    /// Copies the model at `original`. Throws ``CoreLockerError`` with `fileAccess`.
    package init(of original: URL, in temporary: URL = FileManager.default.temporaryDirectory) throws {
        folder = temporary.appendingPathComponent(Self.prefix + UUID().uuidString)
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

    /// Moves what Core ML has compiled into the protected folder. Returns where it lies then. Throws ``CoreLockerError`` with `fileAccess`.
    package func take(_ compiled: URL) throws -> URL {
        let place = folder.appendingPathComponent("compiled-\(compiled.lastPathComponent)")
        do {
            try FileManager.default.moveItem(at: compiled, to: place)
            #if canImport(Darwin)
                // What is moved keeps the protection that it was made with.
                let inside = try FileManager.default.subpathsOfDirectory(atPath: place.path).map(place.appendingPathComponent)
                for item in [place] + inside {
                    try FileManager.default.setAttributes([.protectionKey: FileProtectionType.complete], ofItemAtPath: item.path)
                }
            #endif
            return place
        } catch {
            throw CoreLockerError(.fileAccess, "The compiled model cannot be moved to the temporary folder")
        }
    }

    /// Removes the copies of this app in `temporary`.
    static func removeLeftovers(in temporary: URL) {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: temporary.path)) ?? [] where name.hasPrefix(prefix) {
            try? FileManager.default.removeItem(at: temporary.appendingPathComponent(name))
        }
    }

    /// Removes the copy.
    package func remove() { try? FileManager.default.removeItem(at: folder) }
}
