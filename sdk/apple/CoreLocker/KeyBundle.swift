import CCoreLocker
import Foundation

/// A key bundle whose signature, header and length are checked. Its sections are read when they are opened.
///
/// ```swift
/// let bundle = try KeyBundle(contentsOf: url, publisher: configuration.publisher)
/// print(bundle.model, bundle.tiers)
/// ```
public struct KeyBundle: Sendable {
    private static let prefixSize: UInt64 = 12
    private static let maxHeader: UInt64 = 1 << 20
    private static let signatureSize: UInt64 = 64

    let header: KeyBundleHeader
    private let source: ByteSource
    private let headerDigest: Data
    private let sectionsStart: UInt64

    /// The bundle's id.
    public var id: UUID { header.bundle }
    /// The model that it unlocks, and which version of it.
    public var model: String { header.model }
    /// The version of the model that the bundle unlocks; a license is for one version.
    public var modelVersion: Int64 { header.modelVersion }
    /// RFC 7638 thumbprint of the key that signed it.
    public var publisher: String { header.publisher }
    /// The tiers' names, that which ships locked first.
    public var tiers: [String] { header.tiers }
    /// What the bundle unlocks, in the order of the lock run.
    public var artifacts: [BundledArtifact] { header.artifacts }

    /// Opens the bundle at `url`, and reads its header alone.
    ///
    /// - Parameters:
    ///   - url: the `.clkey` file, which stays where it is.
    ///   - publisher: thumbprint of the key that must have signed it; without it the bundle is only known to be whole.
    /// - Throws: ``CoreLockerError`` with one of the `bundle-` codes, or `fileAccess`.
    public init(contentsOf url: URL, publisher: String? = nil) throws {
        try self.init(.file(url), publisher: publisher)
    }

    /// Opens a bundle from its bytes. Throws like ``init(contentsOf:publisher:)``.
    public init(_ data: Data, publisher: String? = nil) throws {
        try self.init(.memory(data), publisher: publisher)
    }

    private init(_ source: ByteSource, publisher: String?) throws {
        let size = try source.size()
        guard size >= Self.prefixSize else {
            throw CoreLockerError(.bundleTruncated, "The key bundle has \(size) bytes, not even a header")
        }
        let prefix = [UInt8](try source.read(0, Self.prefixSize))
        guard prefix.starts(with: "CLKEYB".utf8) else { throw CoreLockerError(.bundleMagic, "This is not a key bundle") }
        guard prefix[6...7].elementsEqual("02".utf8) else {
            throw CoreLockerError(.bundleVersion, "The key bundle has a format version that this release does not read")
        }
        let length = prefix[8...11].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= Self.maxHeader else {
            throw CoreLockerError(.bundleHeader, "The header of the key bundle has more than \(Self.maxHeader) bytes")
        }
        let signedSize = Self.prefixSize + length
        sectionsStart = signedSize + Self.signatureSize
        guard sectionsStart <= size else {
            throw CoreLockerError(.bundleTruncated, "The key bundle ends inside its header")
        }
        let signed = try source.read(0, signedSize)
        let headerData = Data(signed.dropFirst(Int(Self.prefixSize)))
        header = try KeyBundleHeader(
            headerData, signature: try source.read(signedSize, Self.signatureSize), signed: signed, pinned: publisher)
        headerDigest = Cryptography.sha256(headerData)
        let end = sectionsStart + (header.sections.last.map { $0.offset + $0.length } ?? 0)
        guard end <= size else { throw CoreLockerError(.bundleTruncated, "The key bundle ends inside its sections") }
        guard end == size else { throw CoreLockerError(.bundleTrailing, "Bytes follow the last section of the key bundle") }
        self.source = source
    }

    /// The index of a tier. Throws `bundleMismatch` when there is none of that name.
    package func tier(named name: String) throws(CoreLockerError) -> Int { try identity.tier(named: name) }

    /// What a license has to fit.
    var identity: BundleIdentity {
        BundleIdentity(id: id, modelVersion: modelVersion, publisher: publisher, tiers: tiers)
    }

    /// The sections that bring a file from its locked state to `tier`, in the order to apply.
    func sections(artifact: Int, file: Int, tier: Int) -> [Section] {
        header.sections.filter { $0.artifact == artifact && $0.file == file && $0.tier <= tier }
    }

    /// Opens a section with the content key of its tier.
    func decrypt(_ section: Section, contentKey: Data) throws -> DecryptedSection {
        let size = section.length - KeyBundleHeader.tagSize
        let ciphertext = try source.read(sectionsStart + section.offset, size)
        let tag = try source.read(sectionsStart + section.offset + size, KeyBundleHeader.tagSize)
        let index = withUnsafeBytes(of: UInt32(section.index).littleEndian) { Data($0) }
        let plaintext = NativeMemory(count: Int(size))
        let opened = Cryptography.openGCM(
            ciphertext, tag: tag, key: contentKey, nonce: section.nonce, authenticating: headerDigest + index,
            into: plaintext.bytes)
        guard opened else {
            throw CoreLockerError(
                .bundleContentKey, "The content key does not open section \(section.index) (tier \(tiers[section.tier]))")
        }
        return try DecryptedSection(section, plaintext)
    }
}

/// What a license has to fit.
struct BundleIdentity: Hashable, Sendable {
    let id: UUID
    let modelVersion: Int64
    let publisher: String
    let tiers: [String]

    /// The id as licenses and requests spell it.
    var text: String { id.uuidString.lowercased() }

    func tier(named name: String) throws(CoreLockerError) -> Int {
        guard let index = tiers.firstIndex(of: name) else {
            throw CoreLockerError(.bundleMismatch, "The key bundle has no tier \(name); it has \(tiers.joined(separator: ", "))")
        }
        return index
    }
}

/// Bytes at a place of a file or a buffer. Files are read, not mapped, so one that is cut meanwhile gives an error.
private enum ByteSource: Sendable {
    case file(URL)
    case memory(Data)

    func size() throws(CoreLockerError) -> UInt64 {
        switch self {
        case .memory(let data): return UInt64(data.count)
        case .file(let url):
            do {
                let handle = try FileHandle(forReadingFrom: url)
                defer { try? handle.close() }
                return try handle.seekToEnd()
            } catch {
                throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be read")
            }
        }
    }

    func read(_ offset: UInt64, _ count: UInt64) throws(CoreLockerError) -> Data {
        switch self {
        case .memory(let data):
            let start = data.startIndex + Int(offset)
            return Data(data[start..<start + Int(count)])
        case .file(let url):
            let data: Data?
            do {
                let handle = try FileHandle(forReadingFrom: url)
                defer { try? handle.close() }
                try handle.seek(toOffset: offset)
                data = count == 0 ? Data() : try handle.read(upToCount: Int(count))
            } catch {
                throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be read")
            }
            guard let data, data.count == Int(count) else {
                throw CoreLockerError(.bundleTruncated, "\(url.lastPathComponent) was cut while it was in use")
            }
            return data
        }
    }
}

/// Memory outside of Swift's own, which is zero before it is freed.
final class NativeMemory {
    let bytes: UnsafeMutableRawBufferPointer

    init(count: Int) { bytes = .allocate(byteCount: count, alignment: 16) }

    deinit {
        corelocker_wipe(bytes.baseAddress, bytes.count)
        bytes.deallocate()
    }
}

/// A section in clear: the patch stays in native memory, where the C core reads it and wipes it.
final class DecryptedSection {
    private static let maxDigests = 4096

    let section: Section
    /// The sample of the file after this patch.
    let sample: Data
    /// SHA-256 of the whole file after this patch.
    let file: Data
    let patch: UnsafeMutableRawBufferPointer
    private let plaintext: NativeMemory

    init(_ section: Section, _ plaintext: NativeMemory) throws(CoreLockerError) {
        let bytes = plaintext.bytes
        let place = "section \(section.index)"
        guard bytes.count >= 4 else { throw CoreLockerError(.bundleHeader, "\(place): too short") }
        let length = Int(UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)))
        guard length <= min(Self.maxDigests, bytes.count - 4) else {
            throw CoreLockerError(.bundleHeader, "\(place): the digests do not fit")
        }
        let fields = try Fields(Data(bytes[4..<4 + length]), place, .bundleHeader)
        sample = try fields.digest("sample")
        file = try fields.digest("file")
        patch = UnsafeMutableRawBufferPointer(rebasing: bytes[(4 + length)...])
        self.section = section
        self.plaintext = plaintext
    }
}
