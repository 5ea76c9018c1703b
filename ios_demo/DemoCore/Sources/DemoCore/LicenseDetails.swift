import CoreLocker
import Foundation

/// What the user may know of a license.
public struct LicenseDetails: Hashable, Sendable {
    /// A line of the details.
    public struct Line: Hashable, Sendable, Identifiable {
        public let label: Message
        public let value: String

        public var id: Message { label }
    }

    public let id: String
    public let tier: String
    public let modelVersion: Int
    public let issuer: String
    public let issued: Date
    /// nil for a license that needs no renewal.
    public let renews: Date?
    /// nil for a license without an end.
    public let ends: Date?
    /// Thumbprint of the device key.
    public let device: String

    public init(
        id: String, tier: String, modelVersion: Int, issuer: String, issued: Date, renews: Date?, ends: Date?, device: String
    ) {
        (self.id, self.tier, self.modelVersion, self.issuer) = (id, tier, modelVersion, issuer)
        (self.issued, self.renews, self.ends, self.device) = (issued, renews, ends, device)
    }

    public init(_ license: License) {
        func date(_ seconds: Int64) -> Date { Date(timeIntervalSince1970: TimeInterval(seconds)) }
        self.init(
            id: license.id, tier: license.tier, modelVersion: Int(license.modelVersion), issuer: license.issuer,
            issued: date(license.issuedAt), renews: license.renewAt.map(date), ends: license.expiresAt.map(date), device: license.device)
    }

    public func lines(_ formats: Formats = Formats()) -> [Line] {
        var lines = [
            Line(label: Message("Tier"), value: tier), Line(label: Message("Issued"), value: formats.date(issued)),
        ]
        if let renews { lines.append(Line(label: Message("Renews after"), value: formats.date(renews))) }
        if let ends { lines.append(Line(label: Message("Ends"), value: formats.date(ends))) }
        lines += [
            Line(label: Message("Model version"), value: String(modelVersion)), Line(label: Message("Issuer"), value: issuer),
            Line(label: Message("License number"), value: id), Line(label: Message("Device key"), value: device),
        ]
        return lines
    }
}
