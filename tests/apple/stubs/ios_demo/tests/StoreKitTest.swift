import Foundation

/// A session of StoreKit's test environment.
open class SKTestSession: NSObject {
    public init(configurationFileNamed filename: String) throws {}
    open var disableDialogs: Bool {
        get { false }
        set {}
    }
    open func resetToDefaultState() {}
    open func clearTransactions() {}
}
