import Foundation

/// Canonical JSON (RFC 8785) for the domain of `docs/formats.md`: texts, integers below 2^53, objects of those, ASCII names.
enum CanonicalJSON {
    /// The UTF-8 bytes.
    ///
    /// - Throws: `canonicalJSON` for a value outside of the domain.
    static func encode(_ value: JSON) throws(CoreLockerError) -> Data {
        var output = Data()
        try write(value, to: &output)
        return output
    }

    private static var outside: CoreLockerError { CoreLockerError(.canonicalJSON, "A value has no canonical JSON") }

    private static func write(_ value: JSON, to output: inout Data) throws(CoreLockerError) {
        switch value {
        case .text(let text): write(text, to: &output)
        case .integer(let number) where JSON.integers.contains(number): output.append(contentsOf: String(number).utf8)
        case .object(let members):
            output.append(UInt8(ascii: "{"))
            guard members.keys.allSatisfy({ $0.description.utf8.allSatisfy { $0 < 0x80 } }) else { throw outside }
            let names = members.keys.sorted { $0.description.utf8.lexicographicallyPrecedes($1.description.utf8) }
            for (index, name) in names.enumerated() {
                if index > 0 { output.append(UInt8(ascii: ",")) }
                write(name.description, to: &output)
                output.append(UInt8(ascii: ":"))
                try write(members[name] ?? .null, to: &output)
            }
            output.append(UInt8(ascii: "}"))
        case .integer, .array, .boolean, .null: throw outside
        }
    }

    private static func write(_ text: String, to output: inout Data) {
        output.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case 0x08: output.append(contentsOf: #"\b"#.utf8)
            case 0x09: output.append(contentsOf: #"\t"#.utf8)
            case 0x0a: output.append(contentsOf: #"\n"#.utf8)
            case 0x0c: output.append(contentsOf: #"\f"#.utf8)
            case 0x0d: output.append(contentsOf: #"\r"#.utf8)
            case UInt8(ascii: "\""): output.append(contentsOf: #"\""#.utf8)
            case UInt8(ascii: "\\"): output.append(contentsOf: #"\\"#.utf8)
            case 0..<0x20: output.append(contentsOf: String(format: "\\u%04x", byte).utf8)
            default: output.append(byte)
            }
        }
        output.append(UInt8(ascii: "\""))
    }
}
