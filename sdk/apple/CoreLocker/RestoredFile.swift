import CCoreLocker
import Foundation

/// When the whole file is read and its SHA-256 compared (`docs/formats.md`, Key bundle).
///
/// ```swift
/// let restored = try await locker.restore("model.pte", check: .once)  // a downloaded model
/// ```
public enum FullCheck: Sendable {
    /// `once` where a patch flips elements, else `off`.
    case automatic
    /// Never: for files inside the app, whose signature vouches for them.
    case off
    /// When this file was not checked before: for downloaded models.
    case once
    /// At each restore.
    case always

    fileprivate var mode: corelocker_full_check {
        switch self {
        case .automatic: CORELOCKER_FULL_CHECK_DEFAULT
        case .off: CORELOCKER_FULL_CHECK_OFF
        case .once: CORELOCKER_FULL_CHECK_ONCE
        case .always: CORELOCKER_FULL_CHECK_ALWAYS
        }
    }
}

/// A locked file, restored in read-only memory over a private mapping. Releasing it unmaps the restored bytes.
///
/// The file must not be shortened while it is mapped.
///
/// ```swift
/// let restored = try await locker.restore("model.pte")
/// restored.withUnsafeBytes { run($0) }
/// ```
public final class RestoredFile: @unchecked Sendable {
    // The handle is never changed after `init`, and the C functions that read it are thread-safe.
    private let handle: OpaquePointer

    /// Maps the file at `path` and applies the sections' patches: all of them or none.
    init(path: String, file: BundledFile, sections: [DecryptedSection], check: FullCheck) throws {
        // One block of digests, so that their addresses stay valid during the call: two samples and the file's SHA-256 a section.
        var digests = [UInt8](file.sha256)
        for section in sections { digests += section.section.sample + section.sample + section.file }
        var handle: OpaquePointer?
        let error = digests.withUnsafeBufferPointer { block -> corelocker_error in
            guard let base = block.baseAddress else { return CORELOCKER_ARGUMENT }
            var patches = sections.enumerated().map { index, section in
                let own = base + 32 + 96 * index
                return corelocker_patch(
                    bytes: section.patch.baseAddress, size: section.patch.count, locked_sample: own,
                    restored_sample: own + 32, restored_sha256: own + 64)
            }
            return patches.withUnsafeMutableBufferPointer { patches in
                var options = corelocker_options()
                options.struct_size = UInt32(MemoryLayout<corelocker_options>.size)
                options.patches = patches.baseAddress
                options.patch_count = patches.count
                options.file_size = file.size
                options.sha256 = digestForCore
                options.full_check = check.mode
                options.locked_sha256 = base
                return corelocker_open_path(path, &options, &handle)
            }
        }
        guard error == CORELOCKER_OK, let handle else { throw CoreLockerError(core: error) }
        self.handle = handle
    }

    deinit { corelocker_close(handle) }

    /// Calls `body` with the restored bytes, which are valid during the call and never move while this object lives.
    public func withUnsafeBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try body(UnsafeRawBufferPointer(start: corelocker_data(handle), count: corelocker_size(handle)))
    }

    /// The restored bytes without a copy; the data keeps this object alive.
    public var data: Data {
        guard let start = corelocker_data(handle), corelocker_size(handle) > 0 else { return Data() }
        return Data(
            bytesNoCopy: UnsafeMutableRawPointer(mutating: start), count: corelocker_size(handle),
            deallocator: .custom { [self] _, _ in withExtendedLifetime(self) {} })
    }

    /// The C core's handle (`corelocker_file *`), for C and C++ code. It is valid as long as this object, which closes it.
    public var unsafeHandle: OpaquePointer { handle }

    /// Bytes of memory that the file takes for itself, in whole pages.
    public var privateBytes: UInt64 { corelocker_private_bytes(handle) }

    /// Throws `fileChanged` when somebody wrote to the file or shortened it since it was opened.
    public func checkUnchanged() throws {
        let error = corelocker_check(handle)
        guard error == CORELOCKER_OK else { throw CoreLockerError(core: error) }
    }
}

private func digestForCore(
    _ context: UnsafeMutableRawPointer?, _ bytes: UnsafeRawPointer?, _ size: Int, _ digest: UnsafeMutablePointer<UInt8>?
) -> Int32 {
    guard let digest else { return 1 }
    Cryptography.sha256(of: UnsafeRawBufferPointer(start: bytes, count: size)).copyBytes(to: digest, count: 32)
    return 0
}

extension CoreLockerError {
    /// The error of the C core, by its name.
    init(core error: corelocker_error) {
        let code = ErrorCode(rawValue: String(cString: corelocker_error_name(error))) ?? .argument
        self.init(code, String(cString: corelocker_error_text(error)))
    }
}

extension KeyBundle {
    /// Restores the file at `url` in memory.
    ///
    /// Which file of the bundle it is follows from its name and size.
    ///
    /// - Parameters:
    ///   - contentKey: the key of `keyTier`, which opens the tiers below too.
    ///   - tier: the tier to restore to; 0 maps the locked file.
    func restore(_ url: URL, tier: Int, contentKey: ContentKey?, keyTier: Int, check: FullCheck) throws -> RestoredFile {
        guard tier <= keyTier else {
            throw CoreLockerError(.bundleContentKey, "The key of tier \(tiers[keyTier]) does not open tier \(tiers[tier])")
        }
        let keys = contentKey?.keys(ofTier: keyTier, bundle: id) ?? []
        var refusal: CoreLockerError?
        for candidate in try candidates(url) {
            let wanted = sections(artifact: candidate.artifact, file: candidate.file, tier: tier)
            let opened = try wanted.map { try decrypt($0, contentKey: keys[$0.tier]) }
            do {
                return try RestoredFile(path: url.path, file: candidate.entry, sections: opened, check: check)
            } catch let error as CoreLockerError where error.code == .restoreReplaced || error.code == .restoreAlready {
                refusal = refusal ?? error
            }
        }
        throw refusal ?? CoreLockerError(.bundleMismatch, "The key bundle is not for \(url.lastPathComponent)")
    }

    private struct Candidate {
        let artifact: Int
        let file: Int
        let entry: BundledFile
        /// How many components, from the end, the path has in common with the entry's.
        let likeness: Int
    }

    private func candidates(_ url: URL) throws(CoreLockerError) -> [Candidate] {
        guard let size = (try? FileManager.default.attributesOfItem(atPath: url.path))?[.size] as? NSNumber else {
            throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be read")
        }
        let components = url.standardizedFileURL.pathComponents
        var all: [Candidate] = []
        for (number, artifact) in artifacts.enumerated() {
            for (index, entry) in artifact.files.enumerated() {
                let path = entry.path == artifact.name ? entry.path : "\(artifact.name)/\(entry.path)"
                let there = path.split(separator: "/").map(String.init)
                let likeness = zip(components.reversed(), there.reversed()).prefix { $0 == $1 }.count
                all.append(Candidate(artifact: number, file: index, entry: entry, likeness: likeness))
            }
        }
        all.sort { ($0.likeness, $1.artifact, $1.file) > ($1.likeness, $0.artifact, $0.file) }
        let fitting = all.filter { $0.entry.size == size.uint64Value }
        if fitting.isEmpty, let nearest = all.first, nearest.likeness > 0 {
            throw CoreLockerError(
                .restoreSize, "\(url.lastPathComponent) has \(size) bytes, the locked file \(nearest.entry.size)")
        }
        return fitting
    }
}
