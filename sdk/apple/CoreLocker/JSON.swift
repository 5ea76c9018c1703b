import Foundation

/// A JSON value under the rules of `docs/formats.md` (JSON): numbers are integers below 2^53, names are unique.
enum JSON: Equatable, Sendable {
    case object([Name: JSON])
    case array([JSON])
    case text(String)
    case integer(Int64)
    case boolean(Bool)
    case null

    /// The largest integer that every JSON reader keeps exactly (RFC 8259, section 6).
    static let maxInteger: Int64 = (1 << 53) - 1
    static let integers = -maxInteger...maxInteger

    /// A member's name. Swift holds texts for equal that are canonically equivalent; JSON compares code points.
    struct Name: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
        let description: String

        init(_ text: String) { description = text }
        init(stringLiteral text: String) { self.init(text) }

        static func == (first: Self, second: Self) -> Bool { first.description.utf8.elementsEqual(second.description.utf8) }
        func hash(into hasher: inout Hasher) { Array(description.utf8).hash(into: &hasher) }
    }

    /// An object of texts.
    static func object(texts: [String: String]) -> JSON {
        .object(Dictionary(uniqueKeysWithValues: texts.map { (Name($0), .text($1)) }))
    }

    subscript(name: Name) -> JSON? {
        if case .object(let members) = self { members[name] } else { nil }
    }

    var text: String? { if case .text(let value) = self { value } else { nil } }
    var integer: Int64? { if case .integer(let value) = self { value } else { nil } }
    var array: [JSON]? { if case .array(let value) = self { value } else { nil } }
    var object: [Name: JSON]? { if case .object(let value) = self { value } else { nil } }
}

/// What is wrong with a JSON text. Readers of a format turn it into an error of that format.
struct JSONFault: Error {
    let reason: String
}

/// A strict JSON reader. Foundation's takes the last of two members with one name, fractions and any depth, which these formats must not have.
struct JSONReader {
    private static let maxDepth = 32

    /// The value in `data`, UTF-8.
    static func read(_ data: Data) throws(JSONFault) -> JSON {
        guard String(validating: data, as: UTF8.self) != nil else { throw JSONFault(reason: "not UTF-8") }
        var reader = JSONReader(bytes: [UInt8](data))
        reader.skipSpace()
        let value = try reader.value(depth: 0)
        reader.skipSpace()
        guard reader.position == reader.bytes.count else { throw JSONFault(reason: "text after the value") }
        return value
    }

    private let bytes: [UInt8]
    private var position = 0

    private init(bytes: [UInt8]) { self.bytes = bytes }

    private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0a || byte == 0x0d { position += 1 }
    }

    private mutating func take(_ word: StaticString) -> Bool {
        let count = word.utf8CodeUnitCount
        guard position + count <= bytes.count else { return false }
        for index in 0..<count where bytes[position + index] != word.utf8Start[index] { return false }
        position += count
        return true
    }

    private mutating func value(depth: Int) throws(JSONFault) -> JSON {
        switch next {
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            guard depth < Self.maxDepth else { throw JSONFault(reason: "nests too deep") }
            return next == UInt8(ascii: "{") ? try object(depth: depth) : try array(depth: depth)
        case UInt8(ascii: "\""): return .text(try string())
        case UInt8(ascii: "t") where take("true"): return .boolean(true)
        case UInt8(ascii: "f") where take("false"): return .boolean(false)
        case UInt8(ascii: "n") where take("null"): return .null
        default: return try number()
        }
    }

    private mutating func object(depth: Int) throws(JSONFault) -> JSON {
        position += 1
        var members: [JSON.Name: JSON] = [:]
        skipSpace()
        if take("}") { return .object(members) }
        while true {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw JSONFault(reason: "a member without a name") }
            let name = try string()
            skipSpace()
            guard take(":") else { throw JSONFault(reason: "a name without a value") }
            skipSpace()
            let value = try value(depth: depth + 1)
            guard members.updateValue(value, forKey: JSON.Name(name)) == nil else { throw JSONFault(reason: "a name twice") }
            skipSpace()
            if take("}") { return .object(members) }
            guard take(",") else { throw JSONFault(reason: "an object that does not end") }
        }
    }

    private mutating func array(depth: Int) throws(JSONFault) -> JSON {
        position += 1
        var values: [JSON] = []
        skipSpace()
        if take("]") { return .array(values) }
        while true {
            skipSpace()
            values.append(try value(depth: depth + 1))
            skipSpace()
            if take("]") { return .array(values) }
            guard take(",") else { throw JSONFault(reason: "an array that does not end") }
        }
    }

    private mutating func string() throws(JSONFault) -> String {
        position += 1
        var units: [UInt8] = []
        while let byte = next {
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let text = String(validating: units, as: UTF8.self) else { throw JSONFault(reason: "not UTF-8") }
                return text
            case UInt8(ascii: "\\"): units.append(contentsOf: try escape())
            case 0..<0x20: throw JSONFault(reason: "a control character in a text")
            default: units.append(byte)
            }
        }
        throw JSONFault(reason: "a text that does not end")
    }

    private mutating func escape() throws(JSONFault) -> [UInt8] {
        guard let byte = next else { throw JSONFault(reason: "a text that does not end") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0c]
        case UInt8(ascii: "n"): return [0x0a]
        case UInt8(ascii: "r"): return [0x0d]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "u"): return Array(String(Character(try unicodeEscape())).utf8)
        default: throw JSONFault(reason: "an unknown escape")
        }
    }

    private mutating func unicodeEscape() throws(JSONFault) -> Unicode.Scalar {
        let first = try hexUnit()
        if UTF16.isLeadSurrogate(first), take("\\u") {
            let second = try hexUnit()
            if UTF16.isTrailSurrogate(second), first >= 0xd800 {
                let high = UInt32(first - 0xd800) << 10
                if let pair = Unicode.Scalar(0x10000 + high + UInt32(second - 0xdc00)) { return pair }
            }
        }
        guard let scalar = Unicode.Scalar(first) else { throw JSONFault(reason: "half a surrogate pair") }
        return scalar
    }

    private mutating func hexUnit() throws(JSONFault) -> UInt16 {
        var unit: UInt16 = 0
        for _ in 0..<4 {
            guard let byte = next, let digit = Character(Unicode.Scalar(byte)).hexDigitValue, byte < 0x80 else {
                throw JSONFault(reason: "an escape without four digits")
            }
            unit = unit << 4 | UInt16(digit)
            position += 1
        }
        return unit
    }

    private mutating func digits() -> Int {
        let start = position
        while let byte = next, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { position += 1 }
        return position - start
    }

    private mutating func number() throws(JSONFault) -> JSON {
        let start = position
        _ = take("-")
        let leadingZero = next == UInt8(ascii: "0")
        let count = digits()
        guard count == 1 || (count > 1 && !leadingZero) else { throw JSONFault(reason: "neither a value nor a number") }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        guard next != UInt8(ascii: "."), next != UInt8(ascii: "e"), next != UInt8(ascii: "E"), let value = Int64(text),
            JSON.integers.contains(value)
        else { throw JSONFault(reason: "a number that is no integer below 2^53") }
        return .integer(value)
    }
}
