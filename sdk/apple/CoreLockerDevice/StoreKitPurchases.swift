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
                for await result in Transaction.updates { await self.take(result, right, report) }
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
            return try await unlockOwned(right, report)
        }

        /// - Parameter only: the bundle to unlock; nil for all.
        @discardableResult
        private func unlockOwned(
            _ right: @Sendable (Transaction) -> Right?, _ report: @Sendable (any Error) -> Void, only: UUID? = nil
        ) async throws -> Int {
            var owned: [Entitlement<VerificationResult<Transaction>>] = []
            for await result in Transaction.currentEntitlements {
                let transaction = result.unsafePayloadValue
                guard transaction.revocationDate == nil, let right = right(transaction) else { continue }
                do {
                    owned.append(try entitlement(result, right))
                } catch {
                    report(error)
                }
            }
            return try await unlockHighest(
                of: owned.filter { only == nil || $0.bundle == only }, unlock: unlockUnlessHigher,
                finish: { await $0.unsafePayloadValue.finish() }, report: report)
        }

        /// What a verified transaction unlocks. Throws `purchaseSignature` or `bundleMismatch`.
        private func entitlement(
            _ result: VerificationResult<Transaction>, _ right: Right
        ) throws -> Entitlement<VerificationResult<Transaction>> {
            guard case .verified = result else {
                throw CoreLockerError(.purchaseSignature, "StoreKit does not vouch for the transaction")
            }
            let bundle = try resources.bundle(of: right.model)
            let tier = try right.tier.map { try bundle.tier(named: $0) } ?? bundle.tiers.count - 1
            return Entitlement(result, bundle: bundle.id, tier: tier)
        }

        private func unlockUnlessHigher(_ owned: Entitlement<VerificationResult<Transaction>>) async throws {
            for bundle in bundles where bundle.id == owned.bundle {
                try await client.unlockUnlessHigher(
                    bundle, tier: bundle.tiers[owned.tier], purchase: .appStore(owned.item.jwsRepresentation))
            }
        }

        /// A transaction that arrives by itself.
        private func take(
            _ result: VerificationResult<Transaction>, _ right: @Sendable (Transaction) -> Right?,
            _ report: @Sendable (any Error) -> Void
        ) async {
            let transaction = result.unsafePayloadValue
            guard let bought = right(transaction) else { return }
            do {
                let entitlement = try entitlement(result, bought)
                if transaction.revocationDate == nil {
                    try await unlockUnlessHigher(entitlement)
                } else {
                    try await giveBack(entitlement.bundle)
                    try await unlockOwned(right, report, only: entitlement.bundle)
                }
                await transaction.finish()
            } catch {
                report(error)
            }
        }

        /// After a refund the license ends as soon as the service knows of it, which asks the store. What else is owned takes its place.
        private func giveBack(_ id: UUID) async throws {
            let gone: [ErrorCode] = [.purchaseRevoked, .purchaseSuperseded, .licenseRevoked, .deviceInactive, .notUnlocked]
            do {
                for bundle in bundles where bundle.id == id { try await client.renew(bundle) }
            } catch let error as CoreLockerError where gone.contains(error.code) {}
        }
    }
#endif
