import Foundation

/// The 32-byte secret that opens a tier's patches, and all below it.
struct ContentKey: Sendable {
    static let size = 32

    let bytes: Data

    /// - Throws: `bundleContentKey` when there are not 32 bytes.
    init(_ bytes: Data) throws(CoreLockerError) {
        guard bytes.count == Self.size else {
            throw CoreLockerError(.bundleContentKey, "A content key has \(Self.size) bytes")
        }
        self.bytes = bytes
    }

    /// The keys of tiers 0 to `tier`, this one being that of `tier` (`docs/formats.md`, Content keys).
    func keys(ofTier tier: Int, bundle: UUID) -> [Data] {
        let salt = withUnsafeBytes(of: bundle.uuid) { Data($0) }
        var keys = [bytes]
        for below in stride(from: tier - 1, through: 0, by: -1) {
            let index = withUnsafeBytes(of: UInt32(below).littleEndian) { Data($0) }
            let info = Data("corelocker tier v1".utf8) + index
            keys.append(Cryptography.hkdf(keys[keys.count - 1], salt: salt, info: info, count: Self.size))
        }
        return keys.reversed()
    }
}
