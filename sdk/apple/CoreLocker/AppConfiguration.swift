import Foundation

/// The environment of an app and of the service that it talks to.
///
/// ```swift
/// if locker.configuration.environment == .development { showBanner("Test build") }
/// ```
public enum AppEnvironment: String, Sendable {
    /// `development` takes made-up attestations and purchases; keys and databases of the two are apart.
    case production, development
}

/// `corelocker.json`: all that an app needs to know. `corelocker service app-config` writes it; nothing in it is secret.
///
/// ```swift
/// let configuration = try AppConfiguration(contentsOf: Bundle.main.url(forResource: "corelocker", withExtension: "json")!)
/// ```
public struct AppConfiguration: Sendable {
    private static let maxSize = 64 << 10

    /// Base URL of the unlock service.
    public let service: URL
    /// The claim `iss` of its licenses.
    public let issuer: String
    /// The app's id: the App ID, with the team's prefix.
    public let app: String
    /// Which service it is for.
    public let environment: AppEnvironment
    /// The keys that sign licenses.
    public let licenseKeys: [PublicKey]
    /// Thumbprint of the key that signs key bundles.
    public let publisher: String
    /// Seconds after its end in which a license still counts.
    public let offlineGrace: Int64

    /// Reads the file at `url`. Throws ``CoreLockerError`` with `appConfig` or `fileAccess`.
    public init(contentsOf url: URL) throws {
        guard let data = try? Data(contentsOf: url) else {
            throw CoreLockerError(.fileAccess, "\(url.lastPathComponent) cannot be read")
        }
        try self.init(data)
    }

    /// Reads the file's bytes. Throws ``CoreLockerError`` with `appConfig`.
    public init(_ data: Data) throws {
        guard data.count <= Self.maxSize else {
            throw CoreLockerError(.appConfig, "corelocker.json has more than \(Self.maxSize) bytes")
        }
        let fields = try Fields(data, "corelocker.json", .appConfig)
        guard fields.members["format"]?.text == "corelocker-app-config" else { throw fields.refusal("another format") }
        let version = try fields.text("version", longest: 16)
        guard version.range(of: #"^1\.[0-9]{1,6}\z"#, options: .regularExpression) != nil else {
            throw fields.refusal("version \(version) is not one that this release reads")
        }
        guard let environment = AppEnvironment(rawValue: try fields.text("environment", longest: 16)) else {
            throw fields.refusal("environment is neither production nor development")
        }
        self.environment = environment
        service = try Self.service(fields, environment)
        issuer = try fields.text("issuer", longest: 256)
        app = try fields.text("app", longest: 256)
        publisher = try fields.text("publisher", longest: 43)
        guard Base64URL.decode(publisher)?.count == 32 else { throw fields.refusal("publisher is no key thumbprint") }
        let keys = try fields.child("license_keys").objects("keys")
        let read = keys.compactMap { PublicKey(jwk: .object($0.members)) }
        guard (1...8).contains(keys.count), read.count == keys.count else {
            throw fields.refusal("license_keys are not 1 to 8 public keys on P-256")
        }
        licenseKeys = read.reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
        offlineGrace = fields.has("offline_grace") ? try fields.integer("offline_grace", 0...31_536_000) : 0
    }

    private static func service(_ fields: Fields, _ environment: AppEnvironment) throws(CoreLockerError) -> URL {
        let text = try fields.text("service", longest: 2048)
        let form = #"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?$"#
        guard text.utf8.allSatisfy({ (0x21...0x7e).contains($0) }), text.range(of: form, options: .regularExpression) != nil,
            let url = URL(string: text), (1...65_535).contains(url.port ?? 443),
            url.scheme == "https" || environment == .development
        else { throw fields.refusal("service is no address; use https, or http in development") }
        return url
    }
}
