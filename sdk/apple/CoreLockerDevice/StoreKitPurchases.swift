#if canImport(CryptoKit) && canImport(DeviceCheck) && canImport(Security) && canImport(StoreKit)
    import Foundation
    import StoreKit

    extension VerificationResult: StoreTransaction where SignedType == Transaction {
        package var isVerified: Bool { if case .verified = self { true } else { false } }
        package var isRevoked: Bool { unsafePayloadValue.revocationDate != nil }
        package func finish() async { await unsafePayloadValue.finish() }
    }

    extension CoreLocker {
        /// Unlocks with a StoreKit 2 transaction, and finishes it once the license is here: the App Store hands out again what is not finished.
        ///
        /// ```swift
        /// if case .success(let result) = try await product.purchase() { try await locker.unlock(with: result) }
        /// ```
        ///
        /// - Throws: ``CoreLockerError``: `purchaseSignature` for a transaction that StoreKit has not verified, else as
        ///   ``unlock(with:tier:model:)``.
        public func unlock(with result: VerificationResult<Transaction>, as right: Right = Right()) async throws {
            try await unlock(Bought(result, right))
        }

        /// Watches `Transaction.updates`. Purchases arrive there that were approved later, made on another device or not finished: they unlock,
        /// unless a license for a higher tier is here. Refunds arrive too: the license ends, and what else the user owns unlocks. Start it when the app starts; cancel the task to stop.
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
                for await result in Transaction.updates {
                    guard let bought = right(result.unsafePayloadValue) else { continue }
                    await take(Bought(result, bought), owned: { await Self.owned(right) }, report: report)
                }
            }
        }

        /// Unlocks with what the user owns already: for a "Restore Purchases" button and after the app was installed anew.
        ///
        /// Each model is unlocked with the highest tier that is owned of it. A license for a higher tier that has not ended stays.
        ///
        /// ```swift
        /// let unlocked = try await locker.restorePurchases(
        ///     right: { CoreLocker.Right(tier: $0.productID) }, report: { logger.error("not unlocked: \($0)") })
        /// ```
        ///
        /// - Returns: how many models are unlocked by what is owned.
        @discardableResult
        public func restorePurchases(
            right: @Sendable (Transaction) -> Right?, report: @Sendable (any Error) -> Void
        ) async throws -> Int {
            try await AppStore.sync()
            return try await unlock(owned: await Self.owned(right), report: report)
        }

        private static func owned(_ right: @Sendable (Transaction) -> Right?) async -> [Bought<VerificationResult<Transaction>>] {
            var owned: [Bought<VerificationResult<Transaction>>] = []
            for await result in Transaction.currentEntitlements {
                if let right = right(result.unsafePayloadValue) { owned.append(Bought(result, right)) }
            }
            return owned
        }

        /// All that StoreKit vouches for, whatever it buys.
        static func currentPurchases() async -> [Purchase] {
            var purchases: [Purchase] = []
            for await result in Transaction.currentEntitlements where result.isVerified && !result.isRevoked {
                purchases.append(.appStore(result.jwsRepresentation))
            }
            return purchases
        }
    }
#endif
