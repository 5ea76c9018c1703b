package org.corelocker.core

import java.time.Instant

/** What an app shows about a key bundle. [UnlockClient.state] tells every change. */
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

    /** The license counts. [until] is its end; null for one that is perpetual. */
    public data class Unlocked(
        public val tier: String,
        public val until: Instant?,
    ) : LockState

    /** The license counts, but the service could not be reached to renew it: the models work until [until]. */
    public data class OfflineUntil(
        public val tier: String,
        public val until: Instant,
    ) : LockState

    /** The license has ended. Renewing needs the network. */
    public data object Expired : LockState

    /** The right is gone: refunded, replaced, revoked, or the place went to another device. [code] says which. */
    public data class Revoked(
        public val code: ErrorCode,
    ) : LockState

    /** The last call was refused, and no license counts. docs/errors.md says what to do about each code. */
    public data class Refused(
        public val code: ErrorCode,
    ) : LockState
}

/** How a call that asks the service ended. */
public sealed interface UnlockResult {
    /** The license is kept, and counts. */
    public data class Unlocked(
        public val license: License,
    ) : UnlockResult

    /** Nothing was unlocked. [error] has the code; a license that was there before stays, unless its right is gone. */
    public data class Refused(
        public val error: CoreLockerException,
    ) : UnlockResult
}
