import Foundation
import Security

public protocol Digest: Sequence, Sendable where Element == UInt8 {}

public struct SHA256Digest: Digest {
    public func makeIterator() -> Array<UInt8>.Iterator { fatalError() }
}

public protocol HashFunction: Sendable {
    associatedtype Digest: CryptoKit.Digest
    init()
    mutating func update(bufferPointer: UnsafeRawBufferPointer)
    func finalize() -> Digest
}

extension HashFunction {
    public static func hash<D: DataProtocol>(data: D) -> Digest { fatalError() }
}

public struct SHA256: HashFunction {
    public init() {}
    public mutating func update(bufferPointer: UnsafeRawBufferPointer) {}
    public func finalize() -> SHA256Digest { fatalError() }
}

public struct SymmetricKey: ContiguousBytes, Sendable {
    public init<D: ContiguousBytes>(data: D) {}
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }
}

public struct HashedAuthenticationCode<H: HashFunction>: Sequence, Sendable {
    public func makeIterator() -> Array<UInt8>.Iterator { fatalError() }
}

public struct HMAC<H: HashFunction>: Sendable {
    public static func authenticationCode<D: DataProtocol>(for data: D, using key: SymmetricKey) -> HashedAuthenticationCode<H> {
        fatalError()
    }
}

public struct HKDF<H: HashFunction>: Sendable {
    public static func deriveKey<Salt: DataProtocol, Info: DataProtocol>(
        inputKeyMaterial: SymmetricKey, salt: Salt, info: Info, outputByteCount: Int
    ) -> SymmetricKey { fatalError() }
}

public enum AES: Sendable {
    public enum GCM: Sendable {
        public struct Nonce: Sendable {
            public init<D: DataProtocol>(data: D) throws {}
        }
        public struct SealedBox: Sendable {
            public init<C: DataProtocol, T: DataProtocol>(nonce: AES.GCM.Nonce, ciphertext: C, tag: T) throws {}
        }
        public static func open<AuthenticatedData: DataProtocol>(
            _ sealedBox: SealedBox, using key: SymmetricKey, authenticating authenticatedData: AuthenticatedData
        ) throws -> Data { fatalError() }
    }
}

public protocol DiffieHellmanKeyAgreement {}
public protocol HPKEDiffieHellmanPrivateKey: DiffieHellmanKeyAgreement {}
public protocol HPKEDiffieHellmanPublicKey {}

public enum P256: Sendable {
    public enum Signing: Sendable {
        public struct ECDSASignature: Sendable {
            public init<D: DataProtocol>(rawRepresentation: D) throws {}
            public var derRepresentation: Data { fatalError() }
        }
        public struct PublicKey: Sendable {
            public init<Bytes: ContiguousBytes>(x963Representation: Bytes) throws {}
            public func isValidSignature<D: DataProtocol>(_ signature: ECDSASignature, for data: D) -> Bool { fatalError() }
        }
        public struct PrivateKey: Sendable {
            public init(pemRepresentation: String) throws {}
            public func signature<D: DataProtocol>(for data: D) throws -> ECDSASignature { fatalError() }
        }
    }
    public enum KeyAgreement: Sendable {
        public struct PublicKey: HPKEDiffieHellmanPublicKey, Sendable {
            public init<Bytes: ContiguousBytes>(x963Representation: Bytes) throws {}
            public var x963Representation: Data { fatalError() }
        }
        public struct PrivateKey: HPKEDiffieHellmanPrivateKey, Sendable {
            public init(compactRepresentable: Bool = true) {}
            public init<Bytes: ContiguousBytes>(rawRepresentation: Bytes) throws {}
            public var rawRepresentation: Data { fatalError() }
            public var publicKey: PublicKey { fatalError() }
        }
    }
}

public enum SecureEnclave: Sendable {
    public static var isAvailable: Bool { fatalError() }
    public enum P256: Sendable {
        public enum KeyAgreement: Sendable {
            public struct PrivateKey: HPKEDiffieHellmanPrivateKey {
                public init(accessControl: SecAccessControl) throws {}
                public init(dataRepresentation: Data) throws {}
                public var dataRepresentation: Data { fatalError() }
                public var publicKey: CryptoKit.P256.KeyAgreement.PublicKey { fatalError() }
            }
        }
    }
}

public enum HPKE: Sendable {
    public struct Ciphersuite: Sendable {
        public static var P256_SHA256_AES_GCM_256: Ciphersuite { fatalError() }
    }
    public struct Sender {
        public init<PublicKey: HPKEDiffieHellmanPublicKey>(recipientKey: PublicKey, ciphersuite: Ciphersuite, info: Data) throws {}
        public var encapsulatedKey: Data { fatalError() }
        public mutating func seal<M: DataProtocol>(_ message: M) throws -> Data { fatalError() }
    }
    public struct Recipient {
        public init<PrivateKey: HPKEDiffieHellmanPrivateKey>(
            privateKey: PrivateKey, ciphersuite: Ciphersuite, info: Data, encapsulatedKey: Data
        ) throws {}
        public mutating func open<C: DataProtocol>(_ ciphertext: C) throws -> Data { fatalError() }
    }
}
