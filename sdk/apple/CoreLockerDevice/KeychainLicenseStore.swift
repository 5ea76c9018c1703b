import CoreLocker
import Foundation

/// Licenses and the clock's mark in the keychain of this device. They outlive the app: a purchase works again after it was installed anew,
/// as long as the device key is there.
///
/// ```swift
/// let store = KeychainLicenseStore(service: "com.example.camera")
/// ```
public struct KeychainLicenseStore: LicenseStore {
    private static let clock = "clock"

    private let keychain: Keychain

    #if canImport(Security)
        /// - Parameter service: names the items; the app's id.
        public init(service: String) { self.init(Keychain(app: service, calls: SecItemCalls())) }
    #endif

    package init(_ keychain: Keychain) { self.keychain = keychain }

    public func license(bundle: UUID) throws -> String? {
        try keychain.read(account(bundle)).map { String(decoding: $0, as: UTF8.self) }
    }

    public func save(_ license: String, bundle: UUID) throws { try keychain.write(Data(license.utf8), account(bundle)) }

    public func removeLicense(bundle: UUID) throws { try keychain.remove(account(bundle)) }

    public func mark() throws -> ClockMark? { try keychain.read(Self.clock).map { try ClockMark(json: $0) } }

    public func save(_ mark: ClockMark) throws { try keychain.write(mark.json, Self.clock) }

    public func removeMark() throws { try keychain.remove(Self.clock) }

    private func account(_ bundle: UUID) -> String { "license-\(bundle.uuidString.lowercased())" }
}

/// The id of the App Attest key. The key itself goes when the app is removed; its id may stay behind and is then of no use.
package struct KeychainAppAttestKeyStore: AppAttestKeyStore {
    private static let account = "app-attest-key"
    private static let attested = "attested "
    private static let pending = "pending "

    private let keychain: Keychain

    package init(_ keychain: Keychain) { self.keychain = keychain }

    package func key() throws -> AppAttestKey? {
        guard let text = try keychain.read(Self.account).map({ String(decoding: $0, as: UTF8.self) }) else { return nil }
        for (prefix, isAttested) in [(Self.attested, true), (Self.pending, false)] where text.hasPrefix(prefix) {
            return AppAttestKey(id: String(text.dropFirst(prefix.count)), isAttested: isAttested)
        }
        return nil
    }

    package func save(_ key: AppAttestKey) throws {
        try keychain.write(Data("\(key.isAttested ? Self.attested : Self.pending)\(key.id)".utf8), Self.account)
    }

    package func removeKey() throws { try keychain.remove(Self.account) }
}
