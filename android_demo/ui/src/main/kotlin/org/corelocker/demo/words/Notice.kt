package org.corelocker.demo.words

import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState

/** How a notice feels; it gives the color and the picture. */
enum class Tone { LOCKED, WORKING, UNLOCKED, OFFLINE, WARNING, REFUSED }

/** What helps. */
enum class Remedy { PLANS, RENEW, RESTORE }

/**
 * A state in words, with what to do.
 *
 * @property code for the publisher's support, where something was refused.
 */
data class Notice(
    val tone: Tone,
    val words: Words,
    val remedy: Remedy? = null,
    val code: String? = null,
)

/** The words for each state. */
fun Strings.notice(state: LockState): Notice =
    when (state) {
        LockState.Locked -> {
            Notice(Tone.LOCKED, stateLocked, Remedy.PLANS)
        }

        is LockState.Unlocking -> {
            Notice(Tone.WORKING, unlocking(state))
        }

        is LockState.Unlocked -> {
            Notice(
                Tone.UNLOCKED,
                Words(
                    "${tierName(state.tier)} · $stateUnlocked",
                    state.until?.let { stateUnlockedUntil(date(it)) } ?: stateUnlockedForGood,
                ),
            )
        }

        is LockState.OfflineUntil -> {
            Notice(Tone.OFFLINE, stateOffline(tierName(state.tier), date(state.until)), Remedy.RENEW)
        }

        LockState.Expired -> {
            Notice(Tone.WARNING, stateExpired, Remedy.RENEW)
        }

        is LockState.Revoked -> {
            Notice(Tone.WARNING, revoked(state.code), remedy(state.code), state.code.word)
        }

        is LockState.Refused -> {
            val trouble = Trouble.of(state.code)
            Notice(Tone.REFUSED, trouble(trouble), remedy(trouble), state.code.word)
        }
    }

private fun Strings.unlocking(state: LockState.Unlocking): Words {
    val until = state.waitingUntil ?: return stateUnlocking
    return stateWaiting(state.cause?.let(Trouble::of), state.attempt, time(until))
}

/** What was replaced, or moved to another phone, is still owned. */
private fun remedy(revoked: ErrorCode): Remedy =
    if (revoked == ErrorCode.PURCHASE_SUPERSEDED || revoked == ErrorCode.DEVICE_INACTIVE) Remedy.RESTORE else Remedy.PLANS

private fun remedy(trouble: Trouble): Remedy? =
    when (trouble) {
        Trouble.PURCHASE_ENDED, Trouble.PURCHASE_REFUSED -> Remedy.PLANS
        Trouble.DEVICE_UNSUPPORTED, Trouble.UPDATE, Trouble.APP -> null
        else -> Remedy.RESTORE
    }
