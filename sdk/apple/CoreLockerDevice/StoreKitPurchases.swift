#if canImport(StoreKit) && canImport(CryptoKit) && canImport(DeviceCheck) && canImport(Security)
    import Foundation
    import StoreKit

    extension CoreLocker {
        /// What a transaction buys here.
        ///
        /// ```swift
        /// let right = CoreLocker.Right(tier: "plus", model: "scanner")
        /// ```
        public struct Right: Sendable, Equatable {
            /// A tier of the key bundle; nil for the highest.
            public let tier: String?
            /// The model id of a key bundle; nil where the app holds one.
            public let model: String?

            /// - Parameters:
            ///   - tier: nil for the highest.
            ///   - model: model id of a key bundle; nil where the app holds one.
            public init(tier: String? = nil, model: String? = nil) { (self.tier, self.model) = (tier, model) }
        }

        /// Unlocks with a StoreKit 2 transaction, and finishes it once the license is here: the App Store hands out again what is not finished.
        ///
        /// ```swift
        /// if case .success(let result) = try await product.purchase() { try await locker.unlock(with: result) }
        /// ```
        ///
        /// - Throws: ``CoreLockerError``: `purchaseSignature` for a transaction that StoreKit has not verified, else as
        ///   ``unlock(with:tier:model:)``.
        public func unlock(with result: VerificationResult<Transaction>, as right: Right = Right()) async throws {
            guard case .verified(let transaction) = result else {
                throw CoreLockerError(.purchaseSignature, "StoreKit does not vouch for the transaction")
            }
            try await unlock(with: .appStore(result.jwsRepresentation), tier: right.tier, model: right.model)
            await transaction.finish()
        }

        /// Watches `Transaction.updates`, where purchases arrive that were approved later, made on another device, not finished, or refunded: then
        /// the license is renewed at once, and ends. Start it when the app starts; cancel the task to stop.
        ///
        /// ```swift
        /// updates = locker.observeTransactions(
        ///     right: { ["plus", "full"].contains($0.productID) ? CoreLocker.Right(tier: $0.productID) : nil },
        ///     report: { logger.error("not unlocked: \($0)") })
        /// ```
        ///
        /// - Parameters:
        ///   - right: what a product of the app buys; nil leaves the transaction to the app.
        ///   - report: told about each that did not unlock, or not end the license. It stays unfinished and comes again.
        public func observeTransactions(
            right: @escaping @Sendable (Transaction) -> Right?, report: @escaping @Sendable (any Error) -> Void
        ) -> Task<Void, Never> {
            Task {
                for await result in Transaction.updates { await self.take(result, right, report) }
            }
        }

        /// Unlocks with what the user owns already: for a "Restore Purchases" button and after the app was installed anew.
        ///
        /// ```swift
        /// let unlocked = try await locker.restorePurchases(
        ///     right: { CoreLocker.Right(tier: $0.productID) }, report: { logger.error("not unlocked: \($0)") })
        /// ```
        ///
        /// - Returns: how many transactions unlocked.
        @discardableResult
        public func restorePurchases(
            right: @Sendable (Transaction) -> Right?, report: @Sendable (any Error) -> Void
        ) async throws -> Int {
            try await AppStore.sync()
            var unlocked = 0
            for await result in Transaction.currentEntitlements where await take(result, right, report) { unlocked += 1 }
            return unlocked
        }

        @discardableResult
        private func take(
            _ result: VerificationResult<Transaction>, _ right: @Sendable (Transaction) -> Right?,
            _ report: @Sendable (any Error) -> Void
        ) async -> Bool {
            guard let right = right(result.unsafePayloadValue) else { return false }
            do {
                if case .verified(let transaction) = result, transaction.revocationDate != nil {
                    try await giveBack(transaction, right)
                    return false
                }
                try await unlock(with: result, as: right)
                return true
            } catch {
                report(error)
                return false
            }
        }

        /// After a refund the license ends as soon as the service knows of it, which asks the store.
        private func giveBack(_ transaction: Transaction, _ right: Right) async throws {
            let gone: [ErrorCode] = [.purchaseRevoked, .purchaseSuperseded, .licenseRevoked, .deviceInactive, .notUnlocked]
            do {
                try await client.renew(try resources.bundle(of: right.model))
            } catch let error as CoreLockerError where gone.contains(error.code) {}
            await transaction.finish()
        }
    }
#endif
