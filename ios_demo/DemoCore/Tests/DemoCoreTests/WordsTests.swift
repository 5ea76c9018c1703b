import CoreLocker
import Foundation
import Testing

@testable import DemoCore

/// The string catalog of the app, as Xcode reads it.
struct StringCatalog: Decodable {
    struct Entry: Decodable { let localizations: [String: Localization] }
    struct Localization: Decodable {
        struct Unit: Decodable { let value: String }
        struct Variations: Decodable { let plural: [String: Localization] }
        let stringUnit: Unit?
        let variations: Variations?

        var texts: [String] { stringUnit.map { [$0.value] } ?? (variations?.plural.values.flatMap(\.texts) ?? []) }
    }
    let strings: [String: Entry]

    init() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        let file = folder.appendingPathComponent("../../../Resources/Localizable.xcstrings").standardized
        self = try JSONDecoder().decode(Self.self, from: Data(contentsOf: file))
    }

    /// Specifiers by the argument that they take.
    static func specifiers(_ text: String) -> [Int: String] {
        var found: [Int: String] = [:]
        var next = 1
        for match in text.matches(of: /%(?:(\d+)\$)?(@|lld)/) {
            let place = match.1.flatMap { Int($0) } ?? next
            found[place] = String(match.2)
            next += 1
        }
        return found
    }

    /// Both languages have the message, with a specifier for each argument.
    func holds(_ message: Message) -> Bool {
        let wanted = Dictionary(
            uniqueKeysWithValues: message.arguments.enumerated().map { index, argument in
                if case .number = argument { (index + 1, "lld") } else { (index + 1, "@") }
            })
        return ["en", "de"].allSatisfy { language in
            guard let texts = strings[message.key]?.localizations[language]?.texts, !texts.isEmpty else { return false }
            return texts.allSatisfy { !$0.isEmpty && Self.specifiers($0) == wanted }
        }
    }
}

struct WordsTests {
    private static let states: [UnlockState] =
        [
            .locked, .unlocking, .unlocked(tier: "full", until: nil), .unlocked(tier: "plus", until: Date(timeIntervalSince1970: 86_400)),
            .offline(until: Date(timeIntervalSince1970: 86_400)), .expired, .revoked,
        ] + ErrorCode.allCases.map(UnlockState.refused)

    @Test(arguments: states) func everyStateIsInBothLanguages(_ state: UnlockState) throws {
        let catalog = try StringCatalog()
        let words = StateDescription(state, formats: formats)
        #expect(catalog.holds(words.title))
        #expect(catalog.holds(words.advice))
        #expect(words.title != words.advice)
        #expect(!words.symbol.isEmpty)
        if let action = words.action { #expect(catalog.holds(action.title)) }
    }

    @Test func everyOtherMessageIsInBothLanguages() throws {
        let catalog = try StringCatalog()
        let messages =
            Garment.allCases.map(\.name) + ModelRuntime.allCases.map(\.name) + ModelVersion.allCases.map(\.name)
            + LicenseDetails.sample(ends: .now).lines(formats).map(\.label)
        for message in messages { #expect(catalog.holds(message), "\(message.key)") }
        #expect(!catalog.holds(Message("Tier", .text("more"))))
        #expect(!catalog.holds(Message("no such key")))
    }

    @Test func statesSayWhatToDo() {
        #expect(StateDescription(.locked).action == .buy)
        #expect(StateDescription(.expired).action == .renew)
        #expect(StateDescription(.revoked).action == .restore)
        #expect(StateDescription(.unlocking).action == nil)
        let until = Date(timeIntervalSince1970: 86_400)
        let offline = StateDescription(.offline(until: until), formats: formats)
        #expect(offline.action == .renew)
        #expect(offline.advice.arguments == [.text(formats.date(until))])
        #expect(StateDescription(.unlocked(tier: "plus", until: nil)).title.arguments == [.text("plus")])
    }

    @Test func refusalsNameTheirCode() {
        for code in ErrorCode.allCases { #expect(Refusal(code).advice.arguments == [.text(code.rawValue)]) }
        #expect(Refusal(.deviceLimit).advice != Refusal(.serviceUnreachable).advice)
        #expect(Refusal(.purchasePending).action == nil)
        #expect(Refusal(.licenseClock).action == .renew)
        #expect(StateDescription(.refused(.attestationLost)).action == .restore)
        #expect(Refusal(.attestationLost).advice != Refusal(.attestationRefused).advice)
    }

    @Test func errorsInWords() {
        #expect(Message(CancellationError()) == nil)
        #expect(Message(CoreLockerError(.deviceLimit, "x")) == Refusal(.deviceLimit).advice)
        #expect(Message(FakeLocker.Trouble())?.key == "Something went wrong: %@")
    }

    @Test func numbersAndDates() {
        let german = Formats(locale: Locale(identifier: "de_DE"), timeZone: TimeZone(secondsFromGMT: 3600) ?? .current)
        #expect(formats.percent(0.9213) == "92.1%")
        #expect(german.percent(0.9213) == "92,1\u{a0}%")
        #expect(formats.milliseconds(.microseconds(1234)) == "1.23")
        #expect(german.milliseconds(.seconds(2)) == "2.000,00")
        #expect(formats.date(Date(timeIntervalSince1970: 0)).hasPrefix("Jan 1, 1970"))
        #expect(german.date(Date(timeIntervalSince1970: 0)).contains("1:00"))
    }

    @Test func licenseLines() {
        let perpetual = LicenseDetails.sample().lines(formats)
        #expect(perpetual.map(\.label.key) == ["Tier", "Issued", "Model version", "Issuer", "License number", "Device key"])
        let ending = LicenseDetails.sample(ends: Date(timeIntervalSince1970: 300)).lines(formats)
        #expect(ending.map(\.label.key).contains("Renews after"))
        #expect(ending.first { $0.label.key == "Ends" }?.value == formats.date(Date(timeIntervalSince1970: 300)))
    }
}
