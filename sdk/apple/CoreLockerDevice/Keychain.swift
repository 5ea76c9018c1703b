import CoreLocker
import Foundation

/// The calls of the keychain for generic passwords, each named by service and account. `SecItemCalls` is Apple's; tests have their own.
package protocol KeychainCalls: Sendable {
    /// The status, and the item's bytes.
    func copy(_ service: String, _ account: String) -> (status: Int32, data: Data?)
    func add(_ data: Data, _ service: String, _ account: String) -> Int32
    func update(_ data: Data, _ service: String, _ account: String) -> Int32
    func delete(_ service: String, _ account: String) -> Int32
}

/// The statuses (`OSStatus`) of the keychain that decide something here.
package enum KeychainStatus {
    package static let success: Int32 = 0
    package static let duplicateItem: Int32 = -25299
    package static let itemNotFound: Int32 = -25300
}

/// Small secrets of this device in the keychain: readable after the first unlock, never in a backup or on another device.
package struct Keychain: Sendable {
    /// The items' `kSecAttrService`.
    private let service: String
    private let calls: any KeychainCalls

    /// - Parameter app: the app's id, after which the items are named.
    package init(app: String, calls: any KeychainCalls) { (service, self.calls) = ("\(app).corelocker", calls) }

    /// The item's bytes; nil when there is none. Throws `fileAccess`, for one before the first unlock of the device.
    package func read(_ account: String) throws -> Data? {
        let found = calls.copy(service, account)
        if found.status == KeychainStatus.itemNotFound { return nil }
        guard found.status == KeychainStatus.success, let data = found.data else { throw refusal("read", account, found.status) }
        return data
    }

    /// Keeps the bytes in place of older ones. Throws `fileAccess`.
    package func write(_ data: Data, _ account: String) throws {
        var status = calls.update(data, service, account)
        if status == KeychainStatus.itemNotFound { status = calls.add(data, service, account) }
        // An extension of the app has been faster.
        if status == KeychainStatus.duplicateItem { status = calls.update(data, service, account) }
        guard status == KeychainStatus.success else { throw refusal("written", account, status) }
    }

    /// Removes the item, if there is one. Throws `fileAccess`.
    package func remove(_ account: String) throws {
        let status = calls.delete(service, account)
        guard status == KeychainStatus.success || status == KeychainStatus.itemNotFound else {
            throw refusal("removed", account, status)
        }
    }

    private func refusal(_ what: String, _ account: String, _ status: Int32) -> CoreLockerError {
        CoreLockerError(.fileAccess, "The keychain item \(account) cannot be \(what) (status \(status))")
    }
}
