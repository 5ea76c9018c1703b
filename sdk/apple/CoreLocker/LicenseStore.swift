import Foundation

/// Where a device keeps its licenses and the mark of its clock. Licenses hold no secret that another device could open.
///
/// ```swift
/// let store: any LicenseStore = KeychainLicenseStore(service: "com.example.camera")
/// ```
public protocol LicenseStore: Sendable {
    /// The license of a key bundle, as it was stored.
    func license(bundle: UUID) throws -> String?
    /// Keeps the license of a key bundle in place of an older one.
    func save(_ license: String, bundle: UUID) throws
    /// Removes the license of a key bundle, if there is one.
    func removeLicense(bundle: UUID) throws
    /// The mark; nil when there was never one. Throws ``CoreLockerError`` with `licenseClock` when it is damaged.
    func mark() throws -> ClockMark?
    /// Keeps the mark in place of an older one.
    func save(_ mark: ClockMark) throws
    /// Removes a mark that is damaged.
    func removeMark() throws
}

/// Licenses in a folder of files that only the app can read; each is written atomically.
///
/// ```swift
/// let store = try FileLicenseStore(folder: .applicationSupportDirectory.appending(path: "licenses"))
/// ```
public struct FileLicenseStore: LicenseStore {
    private let folder: URL

    /// - Parameter folder: made when it is missing. Exclude it from backups: a license works on this device alone.
    public init(folder: URL) throws {
        self.folder = folder
        do {
            try FileManager.default.createDirectory(
                at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw CoreLockerError(.fileAccess, "The folder for licenses cannot be made")
        }
    }

    public func license(bundle: UUID) throws -> String? {
        try read(file(bundle)).map { String(decoding: $0, as: UTF8.self) }
    }

    public func save(_ license: String, bundle: UUID) throws { try write(Data(license.utf8), to: file(bundle)) }

    public func removeLicense(bundle: UUID) throws { try remove(file(bundle)) }

    public func mark() throws -> ClockMark? { try read(clock).map { try ClockMark(json: $0) } }

    public func save(_ mark: ClockMark) throws { try write(mark.json, to: clock) }

    public func removeMark() throws { try remove(clock) }

    private var clock: URL { folder.appendingPathComponent("clock.json") }

    private func file(_ bundle: UUID) -> URL { folder.appendingPathComponent("\(bundle.uuidString.lowercased()).jws") }

    private func read(_ url: URL) throws -> Data? {
        guard FileManager.default.fileExists(atPath: url.path) else { return nil }
        do {
            return try Data(contentsOf: url)
        } catch {
            throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be read")
        }
    }

    private func write(_ data: Data, to url: URL) throws {
        do {
            try data.write(to: url, options: .atomic)
            try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: url.path)
        } catch {
            throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be written")
        }
    }

    private func remove(_ url: URL) throws {
        guard FileManager.default.fileExists(atPath: url.path) else { return }
        do {
            try FileManager.default.removeItem(at: url)
        } catch {
            throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be removed")
        }
    }
}
