package org.corelocker.android

import java.io.File
import java.io.IOException

/**
 * Which files have passed a full check, so that the next process needs none. Stamps are opaque bytes of the C core; a lost or
 * damaged list costs a check. Only the app can write the folder, which is what a stamp is worth.
 */
internal class Stamps(
    folder: File,
) {
    private val file = File(folder, "stamps")

    /** Hands what earlier processes have seen to the core, once. */
    private val remembered: Unit by lazy {
        val known = if (file.exists()) readOrEmpty() else ByteArray(0)
        for (at in 0..known.size - SIZE step SIZE) NativeCore.rememberStamp(known.copyOfRange(at, at + SIZE))
    }

    fun load() = remembered

    @Synchronized
    fun add(stamp: ByteArray) {
        val known = readOrEmpty().asList().chunked(SIZE)
        if (stamp.asList() in known) return
        val kept = (known + listOf(stamp.asList())).takeLast(CAPACITY)
        val fresh = File(file.path + ".new")
        try {
            file.parentFile?.mkdirs()
            fresh.writeBytes(kept.flatten().toByteArray())
            if (!fresh.renameTo(file)) fresh.delete()
        } catch (_: IOException) {
            fresh.delete()
        }
    }

    private fun readOrEmpty(): ByteArray =
        try {
            file.readBytes().let { if (it.size % SIZE == 0 && it.size <= CAPACITY * SIZE) it else ByteArray(0) }
        } catch (_: IOException) {
            ByteArray(0)
        }

    private companion object {
        const val SIZE = 80
        const val CAPACITY = 64
    }
}
