import Foundation
import Testing

@testable import CoreLocker

/// What holds for every input, tried on seeded random ones.
@Suite struct PropertyTests {
    @Test func jsonIsReadAsItWasWritten() throws {
        var random = Seeded(1)
        for _ in 0..<3000 {
            let value = random.json(depth: 4)
            let text = random.spelled(value)
            let read = try JSONReader.read(Data(text.utf8))
            #expect(read == value, "\(text)")
        }
    }

    /// Swift holds é for equal to e and an accent, and K to the sign for kelvin.
    @Test func jsonNamesAreComparedByCodePoints() throws {
        let two = try JSONReader.read(Data("{\"\u{e9}\": 1, \"e\u{301}\": 2, \"\u{212a}\": 3}".utf8))
        #expect(two["\u{e9}"] == .integer(1) && two["e\u{301}"] == .integer(2) && two["K"] == nil)
        #expect(throws: JSONFault.self) { try JSONReader.read(Data("{\"\u{e9}\": 1, \"\\u00e9\": 2}".utf8)) }
    }

    /// Whatever the strict reader takes, Foundation's takes too and understands alike.
    @Test func jsonAgreesWithFoundation() throws {
        var random = Seeded(2)
        var taken = 0
        for _ in 0..<6000 {
            let text = Data(random.spelled(random.json(depth: 4)).utf8)
            let data = random.below(4) == 0 ? text : random.mutated(text)
            guard let value = try? JSONReader.read(data) else { continue }
            taken += 1
            let theirs = try? JSONSerialization.jsonObject(with: data, options: .fragmentsAllowed)
            #expect(theirs.map { same(value, $0) } == true, "\(data as NSData)")
        }
        #expect(taken > 1000)
    }

    private func same(_ value: JSON, _ other: Any) -> Bool {
        switch value {
        case .object(let members):
            guard let others = other as? [String: Any], others.count == members.count else { return false }
            return members.allSatisfy { name, member in others[name.description].map { same(member, $0) } ?? false }
        case .array(let values):
            guard let others = other as? [Any], others.count == values.count else { return false }
            return zip(values, others).allSatisfy { same($0, $1) }
        case .text(let text): return (other as? String).map { Array($0.utf8) == Array(text.utf8) } ?? false
        case .integer(let number): return (other as? NSNumber)?.int64Value == number
        case .boolean(let value): return (other as? Bool) == value
        case .null: return other is NSNull
        }
    }

    @Test func numbersBeyondTheFormatAreRefused() {
        for text in [
            "-9223372036854775808", "9223372036854775807", "9007199254740992", "-9007199254740992", "1.0", "1e2", "01", "-", "--1", "+1",
            "0x1", "99999999999999999999",
        ] {
            #expect(throws: JSONFault.self, "\(text)") { try JSONReader.read(Data(text.utf8)) }
        }
        #expect(throws: CoreLockerError.self) { try CanonicalJSON.encode(.integer(.min)) }
    }

    @Test func canonicalJSONHasOneForm() throws {
        var random = Seeded(3)
        for _ in 0..<2000 {
            let value = random.canonical(depth: 4)
            let form = try CanonicalJSON.encode(value)
            let again = try JSONReader.read(Data(random.spelled(value).utf8))
            #expect(try CanonicalJSON.encode(again) == form)
            #expect(try JSONReader.read(form) == value)
        }
    }

    @Test func whatIsOutsideOfCanonicalJSONIsRefused() {
        for value: JSON in [.null, .boolean(true), .array([]), .integer(1 << 53), .object(["é": .text("")]), .object(["a": .null])] {
            #expect(outcome { _ = try CanonicalJSON.encode(value) } == "canonical-json")
        }
    }

    @Test func base64urlHasOneForm() {
        var random = Seeded(4)
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)
        for _ in 0..<4000 {
            let data = random.bytes(random.below(70))
            let text = Base64URL.encode(data)
            #expect(Base64URL.decode(text) == data)
            let other = random.mutated(Data(text.utf8))
            guard let changed = String(validating: other, as: UTF8.self) else { continue }
            // The rule by itself: the alphabet, no single character left, and left-over bits that are zero.
            let digits = changed.utf8.map { alphabet.firstIndex(of: $0) }
            let leftOver = [0: 0, 2: 0b1111, 3: 0b11][digits.count % 4]
            let inAlphabet = !digits.contains(nil)
            let zeroBits = leftOver.map { ((digits.last ?? 0) ?? 0) & $0 == 0 } ?? false
            #expect((Base64URL.decode(changed) != nil) == (inAlphabet && zeroBits), "\(changed)")
        }
    }
}
