package org.corelocker.android

import android.os.Build
import android.security.KeyStoreException
import android.security.keystore.BackendBusyException
import android.security.keystore.KeyPermanentlyInvalidatedException
import androidx.annotation.RequiresApi
import org.corelocker.core.CoreLockerException
import org.corelocker.core.ErrorCode
import java.io.IOException
import java.security.GeneralSecurityException
import java.security.InvalidAlgorithmParameterException
import java.security.NoSuchAlgorithmException
import java.security.ProviderException
import java.security.UnrecoverableKeyException

/**
 * Turns the Keystore's exceptions, which say what happened inside, into ones that say what to do:
 * - [ErrorCode.DEVICE_BUSY] for what passes: a busy backend, no attestation keys until the phone is online or restarts;
 * - [ErrorCode.LICENSE_DEVICE] for a key that is gone: unlocking makes a new one;
 * - [ErrorCode.DEVICE_UNSUPPORTED] for hardware that will not do it.
 *
 * Before API 33 the Keystore does not say whether a failure passes. Then only what names its reason is final.
 */
@RequiresApi(31)
internal class KeystoreGuard {
    fun <T> run(action: () -> T): T =
        try {
            action()
        } catch (failure: GeneralSecurityException) {
            throw translate(failure)
        } catch (failure: ProviderException) {
            throw translate(failure)
        } catch (_: IOException) {
            throw busy("")
        }

    private fun translate(failure: Exception): CoreLockerException {
        val causes = generateSequence<Throwable>(failure) { it.cause }.take(DEEPEST).toList()
        val said = causes.firstNotNullOfOrNull(::said)
        return when {
            causes.any { it is UnrecoverableKeyException || it is KeyPermanentlyInvalidatedException } -> gone()
            said != null -> if (said.passes) busy(said.number) else unsupported(said.number)
            causes.any { it is BackendBusyException } -> busy("")
            causes.any(::isFinal) -> unsupported("")
            else -> busy("")
        }
    }

    /** What the Keystore says of a failure, which it does since API 33. */
    private fun said(cause: Throwable): Said? =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU && cause is KeyStoreException) {
            Said(cause.isTransientFailure, " (Keystore error ${cause.numericErrorCode})")
        } else {
            null
        }

    private fun isFinal(cause: Throwable) = cause is NoSuchAlgorithmException || cause is InvalidAlgorithmParameterException

    private fun busy(number: String) =
        CoreLockerException(
            ErrorCode.DEVICE_BUSY,
            "the secure hardware of this phone does not answer now$number; try again online, then after a restart",
        )

    private fun gone() =
        CoreLockerException(ErrorCode.LICENSE_DEVICE, "the device key is not in the secure hardware any more; unlock again")

    private fun unsupported(number: String) =
        CoreLockerException(ErrorCode.DEVICE_UNSUPPORTED, "the secure hardware of this phone refuses agreement keys$number")

    /** @property number one of android.security.KeyStoreException. */
    private class Said(
        val passes: Boolean,
        val number: String,
    )

    private companion object {
        /** A chain of causes may be a circle. */
        const val DEEPEST = 8
    }
}
