import Foundation

@testable import CoreLocker

/// SplitMix64 (Steele, Lea, Flood 2014): the same draws for the same seed, so that a failure repeats.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }

    mutating func bytes(_ count: Int) -> Data { Data((0..<count).map { _ in UInt8.random(in: 0...255, using: &self) }) }

    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

    /// `data` with one to four changes: a bit, a byte, a cut, a part twice, a part gone, something between.
    mutating func mutated(_ data: Data) -> Data {
        var bytes = [UInt8](data)
        for _ in 0...below(4) {
            guard !bytes.isEmpty else { return bytesOrNothing() }
            let place = below(bytes.count)
            switch below(7) {
            case 0: bytes[place] ^= 1 << UInt8(below(8))
            case 1: bytes[place] = pick([0, 1, 0x7f, 0x80, 0xff, UInt8(ascii: "\""), UInt8(ascii: "{"), UInt8(ascii: "9")])
            case 2: bytes.removeSubrange(place...)
            case 3: bytes.insert(contentsOf: bytes[place..<min(place + 1 + below(16), bytes.count)], at: place)
            case 4: bytes.removeSubrange(place..<min(place + 1 + below(16), bytes.count))
            case 5: bytes.insert(contentsOf: self.bytes(1 + below(8)), at: place)
            default: bytes.insert(contentsOf: pick(Self.words).utf8, at: place)
            }
        }
        return Data(bytes)
    }

    private mutating func bytesOrNothing() -> Data { bytes(below(16)) }

    /// What parsers of numbers, texts and paths stumble over.
    private static let words = [
        "-9223372036854775808", "9223372036854775807", "18446744073709551616", "9007199254740992", "-0", "1e400", "0.5", "\\ud800",
        "\\u0000",
        "\u{301}", "\u{feff}", "../", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "{\"a\":", "null", "\u{202e}",
    ]

    /// A JSON value as the formats allow it, nesting at most `depth` deep.
    mutating func json(depth: Int) -> JSON {
        switch below(depth > 0 ? 7 : 5) {
        case 0: .integer(Int64.random(in: -JSON.maxInteger...JSON.maxInteger, using: &self))
        case 1: .integer(Int64(below(20)) - 10)
        case 2: .boolean(below(2) == 0)
        case 3: .null
        case 4: .text(text())
        case 5: .array((0..<below(4)).map { _ in json(depth: depth - 1) })
        default: .object(members { $0.json(depth: depth - 1) })
        }
    }

    /// A value in the domain of canonical JSON.
    mutating func canonical(depth: Int) -> JSON {
        switch below(depth > 0 ? 3 : 2) {
        case 0: .integer(Int64.random(in: -JSON.maxInteger...JSON.maxInteger, using: &self))
        case 1: .text(text())
        default: .object(members { $0.canonical(depth: depth - 1) })
        }
    }

    private mutating func members(_ value: (inout Seeded) -> JSON) -> [JSON.Name: JSON] {
        var members: [JSON.Name: JSON] = [:]
        for _ in 0..<below(5) {
            let name = String(decoding: (0..<below(6)).map { _ in UInt8(below(0x80)) }, as: UTF8.self)
            members[JSON.Name(name)] = value(&self)
        }
        return members
    }

    mutating func text() -> String {
        let scalars = (0..<below(8)).compactMap { _ -> Unicode.Scalar? in
            switch below(5) {
            case 0: Unicode.Scalar(UInt32(below(0x20)))
            case 1: Unicode.Scalar(UInt32(0x80 + below(0xf_0000)))
            case 2: pick(["\"", "\\", "/", "\u{7f}", "\u{2028}", "\u{301}", "é"])
            default: Unicode.Scalar(UInt32(0x20 + below(0x5f)))
            }
        }
        return String(String.UnicodeScalarView(scalars))
    }

    /// `value` as one of its many texts: spaces and escapes where they are allowed.
    mutating func spelled(_ value: JSON) -> String {
        let space = pick(["", "", " ", "\n\t", "\r "])
        switch value {
        case .integer(let number): return "\(number)"
        case .boolean(let value): return value ? "true" : "false"
        case .null: return "null"
        case .text(let text): return spelled(text)
        case .array(let values): return "[" + space + values.map { spelled($0) }.joined(separator: space + ",") + space + "]"
        case .object(let members):
            let spelledMembers = members.map { spelled($0.description) + space + ":" + space + spelled($1) }
            return "{" + space + spelledMembers.joined(separator: "," + space) + space + "}"
        }
    }

    private mutating func spelled(_ text: String) -> String {
        var output = "\""
        for scalar in text.unicodeScalars {
            if scalar.value < 0x20 || scalar == "\"" || scalar == "\\" || below(4) == 0 {
                for unit in String(scalar).utf16 { output += String(format: below(2) == 0 ? "\\u%04x" : "\\u%04X", unit) }
            } else {
                output.unicodeScalars.append(scalar)
            }
        }
        return output + "\""
    }
}

/// Signs what the tests forge.
enum TestKey {
    // A key of these tests alone: it signs nothing else.
    static let pem = """
        -----BEGIN PRIVATE KEY-----
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpUyyl6PpVi1zdLzd
        w7EnsJWXs+v/VEx9YX6kdrczcIWhRANCAATTNaAwoaTjx0YBR+4FTBHT2DSxAi9r
        n0ZhUcDvkTWqhsOFwsEKA1n65R7luxso9DlGV0lq20JD7CwYIbLKQxlB
        -----END PRIVATE KEY-----

        """
    static let jwk = JSON.object([
        "kty": .text("EC"), "crv": .text("P-256"), "x": .text("0zWgMKGk48dGAUfuBUwR09g0sQIva59GYVHA75E1qoY"),
        "y": .text("w4XCwQoDWfrlHuW7Gyj0OUZXSWrbQkPsLBghsspDGUE"),
    ])

    /// The ES256 signature, r || s.
    static func sign(_ data: Data) throws -> Data {
        guard let der = DevelopmentSigningKey(pem: pem)?.sign(data).map([UInt8].init) else { throw Vectors.Missing() }
        // SEQUENCE { INTEGER r, INTEGER s }, each length in one byte.
        let r = der[4..<4 + Int(der[3])]
        let s = der[(4 + Int(der[3]) + 2)...]
        func fixed(_ integer: ArraySlice<UInt8>) -> Data {
            let digits = integer.drop { $0 == 0 }
            return Data(count: 32 - digits.count) + Data(digits)
        }
        return fixed(r) + fixed(s)
    }
}
