import Foundation

// Core Foundation's types are classes on Apple's systems, and a dictionary is bridged by `as`.
public final class CFString: Hashable {
    public init() {}
    public static func == (first: CFString, second: CFString) -> Bool { first === second }
    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}
public typealias CFDictionary = [CFString: Any]
public typealias CFTypeRef = AnyObject
public final class CFAllocator {}
public final class CFError {}
public typealias OSStatus = Int32

public let errSecSuccess: OSStatus = 0  // ObjC: errSecSuccess
public let errSecDuplicateItem: OSStatus = -25299  // ObjC: errSecDuplicateItem
public let errSecItemNotFound: OSStatus = -25300  // ObjC: errSecItemNotFound

nonisolated(unsafe) public let kSecClass = CFString()  // ObjC: kSecClass
nonisolated(unsafe) public let kSecClassGenericPassword = CFString()  // ObjC: kSecClassGenericPassword
nonisolated(unsafe) public let kSecAttrService = CFString()  // ObjC: kSecAttrService
nonisolated(unsafe) public let kSecAttrAccount = CFString()  // ObjC: kSecAttrAccount
nonisolated(unsafe) public let kSecAttrAccessible = CFString()  // ObjC: kSecAttrAccessible
/// ObjC: kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly
nonisolated(unsafe) public let kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly = CFString()
nonisolated(unsafe) public let kSecAttrAccessibleWhenUnlocked = CFString()  // ObjC: kSecAttrAccessibleWhenUnlocked
nonisolated(unsafe) public let kSecUseDataProtectionKeychain = CFString()  // ObjC: kSecUseDataProtectionKeychain
nonisolated(unsafe) public let kSecValueData = CFString()  // ObjC: kSecValueData
nonisolated(unsafe) public let kSecReturnData = CFString()  // ObjC: kSecReturnData
nonisolated(unsafe) public let kSecMatchLimit = CFString()  // ObjC: kSecMatchLimit
nonisolated(unsafe) public let kSecMatchLimitOne = CFString()  // ObjC: kSecMatchLimitOne

/// ObjC: SecItemCopyMatching
public func SecItemCopyMatching(_ query: CFDictionary, _ result: UnsafeMutablePointer<CFTypeRef?>?) -> OSStatus { 0 }
/// ObjC: SecItemAdd
public func SecItemAdd(_ attributes: CFDictionary, _ result: UnsafeMutablePointer<CFTypeRef?>?) -> OSStatus { 0 }
/// ObjC: SecItemUpdate
public func SecItemUpdate(_ query: CFDictionary, _ attributesToUpdate: CFDictionary) -> OSStatus { 0 }
/// ObjC: SecItemDelete
public func SecItemDelete(_ query: CFDictionary) -> OSStatus { 0 }

public final class SecAccessControl {}

/// ObjC: SecAccessControlCreateFlags
public struct SecAccessControlCreateFlags: OptionSet, Sendable {
    public let rawValue: UInt
    public init(rawValue: UInt) { self.rawValue = rawValue }
    public static let privateKeyUsage = SecAccessControlCreateFlags(rawValue: 1 << 30)
}

/// ObjC: SecAccessControlCreateWithFlags
public func SecAccessControlCreateWithFlags(
    _ allocator: CFAllocator?, _ protection: CFTypeRef, _ flags: SecAccessControlCreateFlags,
    _ error: UnsafeMutablePointer<Unmanaged<CFError>?>?
) -> SecAccessControl? { nil }
