#if canImport(Security)
    import Foundation
    import Security

    /// Apple's keychain. Items are readable after the first unlock of the device, on this device alone.
    struct SecItemCalls: KeychainCalls {
        func copy(_ service: String, _ account: String) -> (status: Int32, data: Data?) {
            var query = item(service, account)
            query[kSecReturnData] = true
            query[kSecMatchLimit] = kSecMatchLimitOne
            var found: CFTypeRef?
            let status = SecItemCopyMatching(query as CFDictionary, &found)
            return (status, found as? Data)
        }

        func add(_ data: Data, _ service: String, _ account: String) -> Int32 {
            SecItemAdd(item(service, account).merging(content(data)) { $1 } as CFDictionary, nil)
        }

        func update(_ data: Data, _ service: String, _ account: String) -> Int32 {
            SecItemUpdate(item(service, account) as CFDictionary, content(data) as CFDictionary)
        }

        func delete(_ service: String, _ account: String) -> Int32 { SecItemDelete(item(service, account) as CFDictionary) }

        private func item(_ service: String, _ account: String) -> [CFString: Any] {
            [
                kSecClass: kSecClassGenericPassword, kSecAttrService: service, kSecAttrAccount: account,
                kSecUseDataProtectionKeychain: true,
            ]
        }

        private func content(_ data: Data) -> [CFString: Any] {
            [kSecValueData: data, kSecAttrAccessible: kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly]
        }
    }
#endif
