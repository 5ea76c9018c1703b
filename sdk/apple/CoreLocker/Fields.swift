import Foundation

/// A JSON object that somebody else wrote: each member is taken by name, type and bound, or refused with the format's code.
struct Fields {
    let members: [JSON.Name: JSON]
    let place: String
    let code: ErrorCode

    /// - Throws: `code` when `data` is no strict JSON object.
    init(_ data: Data, _ place: String, _ code: ErrorCode) throws(CoreLockerError) {
        let value: JSON
        do {
            value = try JSONReader.read(data)
        } catch {
            throw CoreLockerError(code, "\(place): \(error.reason)")
        }
        guard case .object(let members) = value else { throw CoreLockerError(code, "\(place): not a JSON object") }
        self.init(members, place, code)
    }

    init(_ members: [JSON.Name: JSON], _ place: String, _ code: ErrorCode) {
        (self.members, self.place, self.code) = (members, place, code)
    }

    func refusal(_ reason: String) -> CoreLockerError { CoreLockerError(code, "\(place): \(reason)") }

    func has(_ name: JSON.Name) -> Bool { members[name] != nil }

    func integer(_ name: JSON.Name, _ range: ClosedRange<Int64>) throws(CoreLockerError) -> Int64 {
        guard let value = members[name]?.integer, range.contains(value) else {
            throw refusal("\(name) is no integer from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// Plain text of 1 to `longest` code points.
    func text(_ name: JSON.Name, longest: Int) throws(CoreLockerError) -> String {
        guard let value = members[name]?.text, Self.isPlain(value, longest: longest) else {
            throw refusal("\(name) is no text of 1 to \(longest) plain characters")
        }
        return value
    }

    func texts(_ name: JSON.Name, longest: Int) throws(CoreLockerError) -> [String] {
        let values = members[name]?.array
        let texts = values?.compactMap { $0.text.flatMap { Self.isPlain($0, longest: longest) ? $0 : nil } }
        guard let texts, texts.count == values?.count else {
            throw refusal("\(name) is no list of texts of 1 to \(longest) plain characters")
        }
        return texts
    }

    func objects(_ name: JSON.Name) throws(CoreLockerError) -> [Fields] {
        let values = members[name]?.array
        let objects = values?.compactMap(\.object)
        guard let objects, objects.count == values?.count else { throw refusal("\(name) is no list of objects") }
        return objects.enumerated().map { Fields($1, "\(place): \(name)[\($0)]", code) }
    }

    func child(_ name: JSON.Name) throws(CoreLockerError) -> Fields {
        guard let object = members[name]?.object else { throw refusal("\(name) is no object") }
        return Fields(object, "\(place): \(name)", code)
    }

    /// A SHA-256 in 64 lower-case hexadecimal digits.
    func digest(_ name: JSON.Name) throws(CoreLockerError) -> Data {
        guard let text = members[name]?.text, let digest = Data(lowercaseHex: text), digest.count == 32 else {
            throw refusal("\(name) is no SHA-256 in lower-case hexadecimal")
        }
        return digest
    }

    func base64url(_ name: JSON.Name, count: Int) throws(CoreLockerError) -> Data {
        guard let data = members[name]?.text.flatMap(Base64URL.decode), data.count == count else {
            throw refusal("\(name) is not \(count) bytes in base64url")
        }
        return data
    }

    private static func isPlain(_ text: String, longest: Int) -> Bool {
        let scalars = text.unicodeScalars
        return (1...longest).contains(scalars.count)
            && scalars.allSatisfy { scalar in
                switch scalar.value {
                // Controls, line separators, and marks that turn the direction of writing.
                case 0x00...0x1f, 0x7f...0x9f, 0x200e...0x200f, 0x2028...0x202e, 0x2066...0x2069: false
                default: true
                }
            }
    }
}

extension Data {
    /// The bytes of lower-case hexadecimal digits; nil for anything else.
    init?(lowercaseHex text: String) {
        let digits = text.utf8.map { byte -> UInt8? in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            default: nil
            }
        }
        guard digits.count % 2 == 0, digits.allSatisfy({ $0 != nil }) else { return nil }
        self.init(stride(from: 0, to: digits.count, by: 2).map { (digits[$0] ?? 0) << 4 | (digits[$0 + 1] ?? 0) })
    }
}
