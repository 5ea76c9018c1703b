package org.corelocker.android

import android.content.pm.PackageManager
import android.os.Build
import org.corelocker.core.AttestedKey
import org.corelocker.core.CoreLockerException
import org.corelocker.core.DeviceKey
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.UnlockRequest

/** Chooses where the device keys of this phone live. */
internal object DeviceKeysOfPhone {
    /** KeyMint 1.0, the first that agrees on keys (Android 12). */
    private const val KEYMINT_1 = 100

    fun choose(
        features: PackageManager,
        integrityToken: ((ByteArray) -> String)?,
    ): DeviceKeys = choose(Build.VERSION.SDK_INT, features::hasSystemFeature, integrityToken)

    /** @param hasFeature whether the phone has a feature of this version or a higher one. */
    fun choose(
        api: Int,
        hasFeature: (String, Int) -> Boolean,
        integrityToken: ((ByteArray) -> String)?,
    ): DeviceKeys =
        if (api >= Build.VERSION_CODES.S && hasFeature(Api31Features.HARDWARE_KEYSTORE, KEYMINT_1)) {
            Api31DeviceKeys(hasFeature(Api31Features.STRONGBOX_KEYSTORE, KEYMINT_1), api, integrityToken)
        } else {
            NoDeviceKeys
        }
}

/** Constants of newer Android versions, which the compiler copies. */
private object Api31Features {
    const val HARDWARE_KEYSTORE = PackageManager.FEATURE_HARDWARE_KEYSTORE
    const val STRONGBOX_KEYSTORE = PackageManager.FEATURE_STRONGBOX_KEYSTORE
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
