package org.corelocker.android

import android.content.res.AssetFileDescriptor
import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.ErrorCode
import org.corelocker.core.Patches
import java.io.File
import java.io.IOException

/** Restores models from assets, where they lie in the package, and from files. */
@OptIn(CoreLockerInternal::class)
internal class LockedModels(
    private val openAsset: (String) -> AssetFileDescriptor,
    private val stamps: Stamps,
) {
    fun restoreAsset(
        asset: String,
        patches: Patches,
        check: FullCheck,
    ): RestoredFile {
        val descriptor =
            try {
                openAsset(asset)
            } catch (_: IOException) {
                throw CoreLockerException(ErrorCode.FILE_ACCESS, "there is no asset $asset without compression")
            }
        return descriptor.use {
            val fd = it.parcelFileDescriptor.fd
            restore(LockedBytes.InDescriptor(fd, it.startOffset, it.length), patches, check)
        }
    }

    fun restoreFile(
        file: File,
        patches: Patches,
        check: FullCheck,
    ): RestoredFile = restore(LockedBytes.InFile(file), patches, check)

    private fun restore(
        bytes: LockedBytes,
        patches: Patches,
        check: FullCheck,
    ): RestoredFile {
        stamps.load()
        return RestoredFile.open(bytes, patches, check).also { restored -> restored.stamp()?.let(stamps::add) }
    }
}
