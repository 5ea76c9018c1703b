package org.corelocker.core

import java.time.Instant

/**
 * What an app shows about a key bundle. [UnlockClient.state] tells every change.
 *
 * ```
 * when (val state = locker.state.collectAsStateWithLifecycle().value) {
 *     is LockState.Unlocked -> Text("Unlocked: ${state.tier}")
 *     is LockState.Unlocking -> Text(if (state.waitingUntil == null) "One moment" else "The service is busy")
 *     else -> PurchaseButton()
 * }
 * ```
 */
public sealed interface LockState {
    /** There is no license: the models have the utility that the publisher chose for free. */
    public data object Locked : LockState

    /**
     * The service is being asked.
     *
     * @property attempt 1 for the first try.
     * @property waitingUntil when the next try is due, while the client waits for it; null while one runs.
     * @property cause why it waits.
     */
    public data class Unlocking(
        public val attempt: Int,
        public val waitingUntil: Instant? = null,
        public val cause: ErrorCode? = null,
    ) : LockState

    /**
     * The license counts.
     *
     * @property tier the highest that it opens.
     * @property until its end; null for one that is perpetual.
     */
    public data class Unlocked(
        public val tier: String,
        public val until: Instant?,
    ) : LockState

    /**
     * The license counts, but the service could not be reached to renew it.
     *
     * @property tier the highest that it opens.
     * @property until when the models stop working, if it is not renewed.
     */
    public data class OfflineUntil(
        public val tier: String,
        public val until: Instant,
    ) : LockState

    /** The license has ended. Renewing needs the network. */
    public data object Expired : LockState

    /**
     * The right is gone: refunded, replaced, revoked, or the place went to another device.
     *
     * @property code says which.
     */
    public data class Revoked(
        public val code: ErrorCode,
    ) : LockState

    /**
     * The last call was refused, and no license counts.
     *
     * @property code why; docs/errors.md says what to do about each.
     */
    public data class Refused(
        public val code: ErrorCode,
    ) : LockState
}

/**
 * How a call that asks the service ended.
 *
 * ```
 * val result = locker.unlock(purchase)
 * if (result is UnlockResult.Unlocked) billing.acknowledge(purchase) else show((result as UnlockResult.Refused).error.code)
 * ```
 */
public sealed interface UnlockResult {
    /**
     * The license is kept, and counts.
     *
     * @property license the one that was issued.
     */
    public data class Unlocked(
        public val license: License,
    ) : UnlockResult

    /**
     * Nothing was unlocked. A license that was there before stays, unless its right is gone.
     *
     * @property error has the code.
     */
    public data class Refused(
        public val error: CoreLockerException,
    ) : UnlockResult
}
