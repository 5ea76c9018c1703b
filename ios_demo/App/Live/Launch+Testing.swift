#if DEBUG
    import CoreLockerCoreML
    import Foundation

    extension Launch {
        /// UI tests begin without a license, whatever an earlier run has bought.
        static func forgetLicensesIfAsked(_ locker: CoreLocker) throws {
            guard ProcessInfo.processInfo.arguments.contains("--forget-licenses") else { return }
            let store = KeychainLicenseStore(service: locker.configuration.app)
            for bundle in locker.bundles { try store.removeLicense(bundle: bundle.id) }
        }
    }
#endif
