package org.corelocker.demo.model

import kotlinx.coroutines.flow.StateFlow
import org.corelocker.core.Environment
import org.corelocker.core.ErrorCode
import org.corelocker.core.License
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import java.time.Instant

/** The app's locked model, as the screens need it. The app module has the one over CoreLocker and ExecuTorch. */
interface LockedApp {
    /** What counts now. */
    val state: StateFlow<LockState>

    /** Names of the tiers; the first is what ships, the last is all of the model. */
    val tiers: List<String>

    /** The license that counts, or null. */
    fun license(): LicenseDetails?

    /** Renews the license if it is time to, and brings [state] up to date. */
    suspend fun refresh()

    suspend fun renew(): Refusal?

    /** Null when the tier is unlocked. */
    suspend fun unlock(
        purchase: Purchase,
        tier: String,
    ): Refusal?

    /** Removes the license from the phone. Null when it is gone. */
    suspend fun forget(): Refusal?

    /**
     * The model as far as the license goes, but no further than the tier [upTo]. Throws [ModelException].
     */
    fun classifier(upTo: String? = null): Classifier
}

/** A loaded model. */
interface Classifier : AutoCloseable {
    /** The tier that it runs in. */
    val tier: String

    /**
     * Throws [ModelException].
     *
     * @param pixels 28 x 28, from 0 (black) to 1.
     * @return a score for each of the ten classes; not normalised.
     */
    fun scores(pixels: FloatArray): FloatArray
}

/** The model cannot be loaded or run. [code] is for the developer. */
class ModelException(
    val code: String,
) : Exception(code)

/** Why the service, or the license, said no. */
data class Refusal(
    val code: ErrorCode,
    val retryAt: Instant? = null,
)

/** What the screens show of a license. */
data class LicenseDetails(
    val id: String,
    val tier: String,
    val issuedAt: Instant,
    val expiresAt: Instant?,
    val renewAt: Instant?,
    val app: String,
    val modelVersion: Long,
    val device: String,
    val development: Boolean,
) {
    companion object {
        fun of(license: License) =
            LicenseDetails(
                id = license.id,
                tier = license.tier,
                issuedAt = license.issuedAt,
                expiresAt = license.expiresAt,
                renewAt = license.renewAt,
                app = license.app,
                modelVersion = license.modelVersion,
                device = license.device,
                development = license.environment == Environment.DEVELOPMENT,
            )
    }
}

/** The tier that a state unlocks; null while the service is asked. */
fun LockState.tierOf(tiers: List<String>): String? =
    when (this) {
        is LockState.Unlocked -> tier
        is LockState.OfflineUntil -> tier
        is LockState.Unlocking -> null
        else -> tiers.first()
    }
