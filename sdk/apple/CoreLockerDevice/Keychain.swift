#if canImport(Security)
    import CoreLocker
    import Foundation
    import Security

    /// Small secrets of this device in the keychain: readable after the first unlock, never in a backup or on another device.
    struct Keychain: Sendable {
        /// The items' `kSecAttrService`.
        let service: String

        /// The item's bytes; nil when there is none. Throws `fileAccess`, for one before the first unlock of the device.
        func read(_ account: String) throws -> Data? {
            var query = item(account)
            query[kSecReturnData] = true
            query[kSecMatchLimit] = kSecMatchLimitOne
            var found: CFTypeRef?
            let status = SecItemCopyMatching(query as CFDictionary, &found)
            if status == errSecItemNotFound { return nil }
            guard status == errSecSuccess, let data = found as? Data else { throw refusal("read", account, status) }
            return data
        }

        /// Keeps the bytes in place of older ones. Throws `fileAccess`.
        func write(_ data: Data, _ account: String) throws {
            let changes: [CFString: Any] = [
                kSecValueData: data, kSecAttrAccessible: kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly,
            ]
            var status = SecItemUpdate(item(account) as CFDictionary, changes as CFDictionary)
            if status == errSecItemNotFound {
                status = SecItemAdd(item(account).merging(changes) { $1 } as CFDictionary, nil)
            }
            guard status == errSecSuccess else { throw refusal("written", account, status) }
        }

        /// Removes the item, if there is one. Throws `fileAccess`.
        func remove(_ account: String) throws {
            let status = SecItemDelete(item(account) as CFDictionary)
            guard status == errSecSuccess || status == errSecItemNotFound else { throw refusal("removed", account, status) }
        }

        private func item(_ account: String) -> [CFString: Any] {
            [
                kSecClass: kSecClassGenericPassword, kSecAttrService: service, kSecAttrAccount: account,
                kSecUseDataProtectionKeychain: true,
            ]
        }

        private func refusal(_ what: String, _ account: String, _ status: OSStatus) -> CoreLockerError {
            CoreLockerError(.fileAccess, "The keychain item \(account) cannot be \(what) (status \(status))")
        }
    }
#endif
