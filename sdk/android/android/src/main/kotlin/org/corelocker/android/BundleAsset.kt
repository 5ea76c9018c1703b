package org.corelocker.android

import android.content.res.AssetFileDescriptor
import android.os.ParcelFileDescriptor
import org.corelocker.core.CoreLockerException
import org.corelocker.core.KeyBundle

/** The key bundle in an asset; it is read as it is needed, and closes the asset. */
internal fun keyBundle(
    asset: AssetFileDescriptor,
    publisher: String,
): KeyBundle {
    // The channel holds its stream, and the stream the descriptor: Android closes one that nobody holds any more. The stream of
    // createInputStream() would not do: since Android 14 its channel counts from the asset's start.
    val channel = ParcelFileDescriptor.AutoCloseInputStream(asset.parcelFileDescriptor).channel
    try {
        return KeyBundle.open(channel, asset.startOffset, asset.length, publisher)
    } catch (refused: CoreLockerException) {
        channel.close()
        throw refused
    }
}
