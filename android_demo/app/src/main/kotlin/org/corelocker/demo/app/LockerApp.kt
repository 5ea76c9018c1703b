package org.corelocker.demo.app

import kotlinx.coroutines.flow.StateFlow
import org.corelocker.android.CoreLocker
import org.corelocker.core.CoreLockerException
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import org.corelocker.core.UnlockResult
import org.corelocker.demo.model.Classifier
import org.corelocker.demo.model.GrayImage
import org.corelocker.demo.model.LicenseDetails
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.ModelException
import org.corelocker.demo.model.Refusal
import org.corelocker.executorch.LockedModule
import org.corelocker.executorch.LockedModuleException
import org.corelocker.executorch.module
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor

/** The screens' model over CoreLocker and ExecuTorch. */
internal class LockerApp(
    private val locker: CoreLocker,
) : LockedApp {
    override val state: StateFlow<LockState> get() = locker.state
    override val tiers: List<String> get() = locker.bundle.tiers

    override fun license(): LicenseDetails? =
        try {
            LicenseDetails.of(locker.license())
        } catch (_: CoreLockerException) {
            // There is none that counts; the state says why.
            null
        }

    override suspend fun refresh() {
        locker.refresh()
    }

    override suspend fun renew(): Refusal? = refusal(locker.renew())

    override suspend fun unlock(
        purchase: Purchase,
        tier: String,
    ): Refusal? = refusal(locker.unlock(purchase, tier))

    override suspend fun forget(): Refusal? =
        try {
            locker.forget()
            null
        } catch (refused: CoreLockerException) {
            Refusal(refused.code, refused.retryAt)
        }

    override fun classifier(upTo: String?): Classifier = failing { LockedClassifier(locker.module(MODEL, upTo), tiers) }

    private fun refusal(result: UnlockResult): Refusal? =
        when (result) {
            is UnlockResult.Unlocked -> null
            is UnlockResult.Refused -> Refusal(result.error.code, result.error.retryAt)
        }

    private companion object {
        const val MODEL = "fashion.pte"
    }
}

private class LockedClassifier(
    private val module: LockedModule,
    tiers: List<String>,
) : Classifier {
    override val tier = tiers[module.tier]

    override fun scores(pixels: FloatArray): FloatArray =
        failing {
            val input = Tensor.fromBlob(pixels, longArrayOf(1, 1, GrayImage.SIDE.toLong(), GrayImage.SIDE.toLong()))
            module
                .forward(EValue.from(input))
                .first()
                .toTensor()
                .dataAsFloatArray
        }

    override fun close() = module.close()
}

private fun <T> failing(call: () -> T): T =
    try {
        call()
    } catch (refused: CoreLockerException) {
        throw ModelException(refused.code.word)
    } catch (refused: LockedModuleException) {
        throw ModelException("executorch-${refused.code}")
    }
