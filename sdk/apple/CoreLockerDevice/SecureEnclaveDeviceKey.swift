import CoreLocker
import Foundation

/// The calls that make and use P-256 agreement keys. `CryptoKitEnclave` is Apple's; tests have their own.
package protocol EnclaveCalls: Sendable {
    var isAvailable: Bool { get }
    func make() throws -> EnclaveKey
    /// The key that the representation stands for. Throws an error for which ``isLostEnclaveKey(_:)`` says whether it is gone for good.
    func find(_ representation: Data) throws -> EnclaveKey
    /// HPKE's plaintext (RFC 9180, base mode) of a key's encapsulation, 65 bytes, and the ciphertext.
    func open(encapsulated: Data, ciphertext: Data, info: Data, with representation: Data) throws -> Data
}

/// A key of the Enclave.
package struct EnclaveKey: Sendable {
    /// What the Enclave needs to find it again.
    package let representation: Data
    package let publicKey: PublicKey

    package init(representation: Data, publicKey: PublicKey) { (self.representation, self.publicKey) = (representation, publicKey) }
}

/// Whether an error of the Secure Enclave says that it will never open a key again, as after the device was erased. Anything else may pass.
package func isLostEnclaveKey(_ error: any Error) -> Bool {
    let error = error as NSError
    guard error.domain == "CryptoTokenKit" else { return false }
    return switch error.code {
    case -3: true  // ObjC: TKErrorCode.CodeCorruptedData
    case -6: true  // ObjC: TKErrorCode.CodeObjectNotFound
    case -8: true  // ObjC: TKErrorCode.CodeBadParameter
    default: false
    }
}

/// The device key in the Secure Enclave. The keychain keeps what the Enclave needs to find it again, which is of no use on another device.
///
/// ```swift
/// let key = try SecureEnclaveDeviceKey(service: "com.example.camera")
/// ```
public struct SecureEnclaveDeviceKey: DeviceKey {
    private static let pointSize = 65
    private static let tagSize = 16

    private let key: EnclaveKey
    private let enclave: any EnclaveCalls

    public var publicKey: PublicKey { key.publicKey }

    #if canImport(CryptoKit) && canImport(Security)
        /// The key that the keychain knows, or a new one: at first, and where the Enclave no longer opens the old one.
        ///
        /// - Throws: ``CoreLockerError``: `deviceUnsupported` without a Secure Enclave, `deviceBusy` when it does not answer now, `fileAccess` when
        ///   the keychain cannot be read, for one before the first unlock of the device.
        public init(service: String) throws {
            try self.init(Keychain(app: service, calls: SecItemCalls()), CryptoKitEnclave())
        }
    #endif

    /// - Parameter account: names the keychain's item.
    package init(_ keychain: Keychain, _ enclave: any EnclaveCalls, account: String = "device-key") throws {
        guard enclave.isAvailable else { throw CoreLockerError(.deviceUnsupported, "This device has no Secure Enclave") }
        self.enclave = enclave
        if let kept = try keychain.read(account), let key = try Self.find(kept, enclave) {
            self.key = key
            return
        }
        do {
            key = try enclave.make()
        } catch {
            throw Self.busy("makes no key", error)
        }
        try keychain.write(key.representation, account)
    }

    /// nil when the Enclave has lost the key. Throws `deviceBusy` when it does not answer now: a new key would make the license useless.
    private static func find(_ kept: Data, _ enclave: any EnclaveCalls) throws(CoreLockerError) -> EnclaveKey? {
        do {
            return try enclave.find(kept)
        } catch  where isLostEnclaveKey(error) {
            return nil
        } catch {
            throw busy("does not open the device key", error)
        }
    }

    private static func busy(_ what: String, _ cause: any Error) -> CoreLockerError {
        let cause = cause as NSError
        return CoreLockerError(.deviceBusy, "The Secure Enclave \(what) (\(cause.domain) \(cause.code))")
    }

    public func open(_ sealed: Data, info: Data) throws -> Data {
        guard sealed.count > Self.pointSize + Self.tagSize,
            let plaintext = try? enclave.open(
                encapsulated: sealed.prefix(Self.pointSize), ciphertext: sealed.dropFirst(Self.pointSize), info: info,
                with: key.representation)
        else { throw CoreLockerError(.licenseWrap, "The wrapped content key does not open with this device key") }
        return plaintext
    }
}
