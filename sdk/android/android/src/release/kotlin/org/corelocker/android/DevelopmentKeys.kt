package org.corelocker.android

import android.content.res.AssetManager
import org.corelocker.core.DeviceKeys
import java.io.File

/** A release build holds no development key. */
@Suppress("UNUSED_PARAMETER")
internal fun developmentKeys(
    assets: AssetManager,
    folder: File,
): DeviceKeys? = null
