package org.corelocker.android

import android.os.Build
import org.corelocker.core.AttestedKey
import org.corelocker.core.CoreLockerException
import org.corelocker.core.DeviceKey
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.UnlockRequest

/** Chooses where the device keys of this phone live. */
internal object DeviceKeysOfPhone {
    /** @param hasFeature whether the phone has a feature of this version or a higher one. */
    fun choose(
        hasFeature: (String, Int) -> Boolean,
        integrityToken: ((ByteArray) -> String)?,
    ): DeviceKeys {
        val keys = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) Api31DeviceKeys.ofPhone(hasFeature, integrityToken) else null
        return keys ?: NoDeviceKeys
    }
}

/** A phone whose hardware agrees on no keys: each unlock is refused, and the models stay locked. */
internal object NoDeviceKeys : DeviceKeys {
    override fun find(thumbprint: String): DeviceKey? = null

    override fun attest(request: UnlockRequest): AttestedKey =
        throw CoreLockerException(
            ErrorCode.DEVICE_UNSUPPORTED,
            "this phone's secure hardware agrees on no keys; it takes Android 12 and a hardware keystore of version 100",
        )

    override fun keepOnly(thumbprints: Set<String>) = Unit
}
