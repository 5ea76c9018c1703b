import Foundation

/// A file of an artifact, as the bundle knows it.
///
/// ```swift
/// let sizes = artifact.files.map { "\($0.path): \($0.size) bytes" }
/// ```
public struct BundledFile: Equatable, Sendable {
    /// The path inside the artifact, with forward slashes; the artifact's own name where it is one file.
    public let path: String
    /// Bytes.
    public let size: UInt64
    /// SHA-256 of the locked file.
    public let sha256: Data
}

/// An artifact that the bundle unlocks.
///
/// ```swift
/// let names = bundle.artifacts.map(\.name)  // ["Classifier.mlpackage"]
/// ```
public struct BundledArtifact: Equatable, Sendable {
    /// The name of the file or folder.
    public let name: String
    /// `executorch`, `coreml` or `safetensors`.
    public let format: String
    /// The locked files of it: one for a program, those with locked weights for a package.
    public let files: [BundledFile]

    /// The file with the external weights of an ExecuTorch program.
    ///
    /// ```swift
    /// let weights = try artifact.externalWeights()  // "classifier.ptd"
    /// ```
    ///
    /// - Parameter name: the file, without its extension; nil for the only `.ptd` of the artifact, if there is one.
    /// - Throws: ``CoreLockerError``: `bundleMismatch` when the artifact has no such file, or several and no name is given.
    public func externalWeights(named name: String? = nil) throws(CoreLockerError) -> String? {
        let all = files.map(\.path).filter { $0.hasSuffix(".ptd") }
        let fitting = name.map { name in all.filter { $0 == "\(name).ptd" } } ?? all
        if fitting.isEmpty, name == nil { return nil }
        guard fitting.count == 1 else {
            throw CoreLockerError(
                .bundleMismatch,
                "\(self.name) needs one file of weights; the key bundle has \(all.isEmpty ? "none" : all.joined(separator: ", "))")
        }
        return fitting[0]
    }

    /// Its own name, and those of files that lie beside it.
    var names: Set<String> { Set([name] + (Self.folders.contains(format) ? [] : files.map(\.path))) }

    private static let folders: Set<String> = ["coreml"]
}

/// Where one encrypted patch lies, and what it is for.
struct Section: Equatable, Sendable {
    let index: Int
    let artifact: Int
    let file: Int
    let tier: Int
    let offset: UInt64
    let length: UInt64
    let nonce: Data
    let sample: Data
}

/// The signed header of a key bundle (`docs/formats.md`, Key bundle).
struct KeyBundleHeader: Sendable {
    static let tagSize: UInt64 = 16
    /// What AES-256-GCM encrypts under one nonce (NIST SP 800-38D, 5.2.1.1), and its tag.
    private static let maxSection: Int64 = (1 << 36) - 32 + 16

    let bundle: UUID
    let model: String
    let modelVersion: Int64
    let publisher: String
    let tiers: [String]
    let artifacts: [BundledArtifact]
    let sections: [Section]

    /// Version, publisher and signature come first: what an unknown publisher or version wrote is not looked at.
    init(_ data: Data, signature: Data, signed: Data, pinned: String?) throws(CoreLockerError) {
        let fields = try Fields(data, "header of the key bundle", .bundleHeader)
        guard fields.members["format"]?.text == "corelocker-key-bundle" else { throw fields.refusal("another format") }
        try Self.checkVersion(fields)
        publisher = try fields.text("publisher", longest: 43)
        guard let jwk = fields.members["publisher_key"], let key = PublicKey(jwk: jwk), key.thumbprint == publisher else {
            throw fields.refusal("publisher_key is no key of P-256 with that thumbprint")
        }
        guard Cryptography.verify(signature, of: signed, key: key) else {
            throw CoreLockerError(.bundleSignature, "The signature of the key bundle does not fit its header")
        }
        guard pinned == nil || pinned == publisher else {
            throw CoreLockerError(.bundlePublisher, "Another publisher signed the key bundle")
        }
        tiers = try fields.texts("tiers", longest: 64)
        guard (2...64).contains(tiers.count), Set(tiers).count == tiers.count else {
            throw fields.refusal("tiers are not 2 to 64 different names")
        }
        artifacts = try Self.artifacts(fields)
        bundle = try Self.identifier(fields)
        model = try fields.text("model", longest: 256)
        modelVersion = try fields.integer("model_version", 0...JSON.maxInteger)
        sections = try Self.sections(fields, artifacts: artifacts, tiers: tiers.count)
    }

    private static func checkVersion(_ fields: Fields) throws(CoreLockerError) {
        let parts = try fields.text("version", longest: 16).split(separator: ".", omittingEmptySubsequences: false)
        let areNumbers = parts.allSatisfy { part in
            (1...6).contains(part.utf8.count) && part.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        }
        guard parts.count == 2, areNumbers else { throw fields.refusal("version is not two numbers with a dot") }
        guard parts[0] == "2" else {
            throw CoreLockerError(.bundleVersion, "The key bundle has a format version that this release does not read")
        }
    }

    private static func identifier(_ fields: Fields) throws(CoreLockerError) -> UUID {
        let text = try fields.text("bundle", longest: 36)
        guard let bundle = UUID(uuidString: text), bundle.uuidString.lowercased() == text else {
            throw fields.refusal("bundle is no UUID in lower case")
        }
        return bundle
    }

    private static func artifacts(_ fields: Fields) throws(CoreLockerError) -> [BundledArtifact] {
        var artifacts: [BundledArtifact] = []
        for entry in try fields.objects("artifacts") {
            let name = try entry.text("name", longest: 256)
            guard !name.unicodeScalars.contains("/"), isInside(name) else { throw entry.refusal("name is not that of a file or folder") }
            var files: [BundledFile] = []
            for file in try entry.objects("files") {
                let path = try file.text("path", longest: 1024)
                guard isInside(path) else { throw file.refusal("path is not relative or leaves the artifact") }
                let size = UInt64(try file.integer("size", 0...JSON.maxInteger))
                files.append(BundledFile(path: path, size: size, sha256: try file.digest("sha256")))
            }
            guard !files.isEmpty, Set(files.map(\.path)).count == files.count else {
                throw entry.refusal("files are missing or two have one path")
            }
            artifacts.append(BundledArtifact(name: name, format: try entry.text("format", longest: 64), files: files))
        }
        guard !artifacts.isEmpty, Set(artifacts.map(\.name)).count == artifacts.count else {
            throw fields.refusal("artifacts are missing or two have one name")
        }
        return artifacts
    }

    /// By code points: to Swift's characters a slash with an accent is no slash.
    private static func isInside(_ path: String) -> Bool {
        let scalars = path.unicodeScalars
        let parts = scalars.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        return !scalars.contains("\\") && !parts.contains { $0.isEmpty || $0 == "." || $0 == ".." }
    }

    private static func sections(
        _ fields: Fields, artifacts: [BundledArtifact], tiers: Int
    ) throws(CoreLockerError) -> [Section] {
        struct ArtifactFile: Hashable {
            let artifact: Int
            let file: Int
        }
        var sections: [Section] = []
        var highest: [ArtifactFile: Int] = [:]
        var end: UInt64 = 0
        for (index, entry) in try fields.objects("sections").enumerated() {
            let artifact = Int(try entry.integer("artifact", 0...Int64(artifacts.count - 1)))
            let file = Int(try entry.integer("file", 0...Int64(artifacts[artifact].files.count - 1)))
            let tier = Int(try entry.integer("tier", 1...Int64(tiers - 1)))
            let place = ArtifactFile(artifact: artifact, file: file)
            guard tier > highest[place] ?? 0 else { throw entry.refusal("the tiers of a file do not ascend") }
            highest[place] = tier
            let offset = UInt64(try entry.integer("offset", 0...JSON.maxInteger))
            guard offset == end else { throw entry.refusal("does not begin where the section before ends") }
            let length = UInt64(try entry.integer("length", Int64(tagSize)...maxSection))
            // At most 2^53 + 2^36, so this does not overflow.
            end += length
            sections.append(
                Section(
                    index: index, artifact: artifact, file: file, tier: tier, offset: offset, length: length,
                    nonce: try entry.base64url("nonce", count: 12), sample: try entry.digest("sample")))
        }
        return sections
    }
}
