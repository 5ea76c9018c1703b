import Foundation
import Testing

@testable import CoreLocker

/// The vectors of `tests/vectors`, which every implementation runs.
enum Vectors {
    /// `tests`, seen from `tests/apple/Shared` itself and from the links to it.
    static let tests: URL = {
        var folder = URL(fileURLWithPath: #filePath)
        while folder.lastPathComponent != "apple" { folder.deleteLastPathComponent() }
        return folder.deletingLastPathComponent()
    }()
    static let folder = tests.appendingPathComponent("vectors")

    /// The content of a file. A number that the formats do not allow, in a vector or in how it is judged, becomes a text.
    static func file(_ name: String) throws -> JSON {
        value(try JSONSerialization.jsonObject(with: try Data(contentsOf: folder.appendingPathComponent(name))))
    }

    private static func value(_ any: Any) -> JSON {
        switch any {
        case let text as String: .text(text)
        case let members as [String: Any]: .object(Dictionary(uniqueKeysWithValues: members.map { (JSON.Name($0), value($1)) }))
        case let values as [Any]: .array(values.map(value))
        case let number as NSNumber: self.number(number)
        default: .null
        }
    }

    private static func number(_ number: NSNumber) -> JSON {
        let digits = "\(number)"
        if let value = Int64(digits), abs(value) <= JSON.maxInteger { return .integer(value) }
        return .text(digits)
    }

    static func cases(_ file: JSON) throws -> [JSON] {
        guard let cases = file["vectors"]?.array, !cases.isEmpty else { throw Missing() }
        return cases
    }

    struct Missing: Error {}
}

extension JSON {
    var name: String { self["name"]?.text ?? "" }

    func text(_ name: JSON.Name) throws -> String {
        guard let value = self[name]?.text else { throw Vectors.Missing() }
        return value
    }

    func hex(_ name: JSON.Name) throws -> Data {
        guard let value = Data(lowercaseHex: try text(name)) else { throw Vectors.Missing() }
        return value
    }

    func base64(_ name: JSON.Name) throws -> Data {
        guard let value = Data(base64Encoded: try text(name)) else { throw Vectors.Missing() }
        return value
    }

    func number(_ name: JSON.Name) throws -> Int64 {
        guard let value = self[name]?.integer else { throw Vectors.Missing() }
        return value
    }

    /// A number of any kind.
    var double: Double? { integer.map(Double.init) ?? text.flatMap(Double.init) }

    var isPresent: Bool { self != .null }
}

/// `#expect` with arguments that may throw.
func expectEqual<Value: Equatable>(
    _ found: Value, _ expected: Value, _ name: String, sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(found == expected, "\(name)", sourceLocation: sourceLocation)
}

/// The code of the error that `work` throws, "ok" when it throws none.
func outcome(_ work: () throws -> Void) -> String {
    do {
        try work()
        return "ok"
    } catch let error as CoreLockerError {
        return error.code.rawValue
    } catch {
        return "another error: \(error)"
    }
}

func outcome(_ work: () async throws -> Void) async -> String {
    do {
        try await work()
        return "ok"
    } catch let error as CoreLockerError {
        return error.code.rawValue
    } catch {
        return "another error: \(error)"
    }
}

/// A private JWK as a device key.
func deviceKey(_ jwk: JSON?) throws -> SoftwareDeviceKey {
    guard case .object(var members)? = jwk, let scalar = members.removeValue(forKey: "d")?.text.flatMap(Base64URL.decode),
        let publicKey = PublicKey(jwk: .object(members)), let key = SoftwareDeviceKey(scalar: scalar, publicKey: publicKey)
    else { throw Vectors.Missing() }
    return key
}

/// A store in memory.
final class MemoryStore: LicenseStore, @unchecked Sendable {
    private let lock = NSLock()
    private var licenses: [UUID: String] = [:]
    private var kept: ClockMark?

    init(license: String? = nil, bundle: UUID? = nil, mark: ClockMark? = nil) {
        if let license, let bundle { licenses[bundle] = license }
        kept = mark
    }

    func license(bundle: UUID) -> String? { lock.withLock { licenses[bundle] } }
    func save(_ license: String, bundle: UUID) { lock.withLock { licenses[bundle] = license } }
    func removeLicense(bundle: UUID) { lock.withLock { licenses[bundle] = nil } }
    func mark() -> ClockMark? { lock.withLock { kept } }
    func save(_ mark: ClockMark) { lock.withLock { kept = mark } }
    func removeMark() { lock.withLock { kept = nil } }
}

/// Writes a file below a new folder, and removes the folder afterwards.
func withTemporaryFile(_ path: String, _ data: Data, _ body: (URL) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    defer { try? FileManager.default.removeItem(at: folder) }
    let url = folder.appendingPathComponent(path)
    try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
    try data.write(to: url)
    try body(url)
}

/// A value that several tasks change.
final class Locked<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var kept: Value

    init(_ value: Value) { kept = value }

    var value: Value {
        get { lock.withLock { kept } }
        set { lock.withLock { kept = newValue } }
        _modify {
            lock.lock()
            defer { lock.unlock() }
            yield &kept
        }
    }
}
