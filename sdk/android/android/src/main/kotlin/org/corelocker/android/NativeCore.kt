package org.corelocker.android

import org.corelocker.core.CoreLockerException
import org.corelocker.core.ErrorCode
import java.nio.ByteBuffer
import java.security.MessageDigest

/** The C core (libcorelocker.so). The functions return the core's error numbers; [check] turns them into exceptions. */
internal object NativeCore {
    /** The version of the C API that this code is written for (corelocker.h). */
    private const val MAJOR = 2

    init {
        System.loadLibrary("corelocker")
        check(version() ushr 16 == MAJOR) { "libcorelocker.so is of another version" }
    }

    /**
     * Opens [length] bytes at [offset] of a file, and applies the patches, which are wiped. Writes the handle to [handle].
     *
     * @param path in UTF-8; null to take [fd].
     * @param length -1 for the rest of the file.
     * @param digests of all patches: three of 32 bytes each, see `corelocker_patch`.
     */
    @JvmStatic
    external fun open(
        path: ByteArray?,
        fd: Int,
        offset: Long,
        length: Long,
        fileSize: Long,
        patches: Array<ByteBuffer>,
        digests: ByteArray,
        lockedSha256: ByteArray,
        fullCheck: Int,
        copy: Boolean,
        handle: LongArray,
    ): Int

    @JvmStatic
    external fun buffer(handle: Long): ByteBuffer?

    @JvmStatic
    external fun privateBytes(handle: Long): Long

    @JvmStatic
    external fun check(handle: Long): Int

    @JvmStatic
    external fun close(handle: Long)

    @JvmStatic
    external fun stamp(handle: Long): ByteArray?

    @JvmStatic
    external fun rememberStamp(stamp: ByteArray): Int

    @JvmStatic
    external fun checkPatch(
        patch: ByteBuffer,
        fileSize: Long,
    ): Int

    @JvmStatic
    private external fun errorName(error: Int): String

    @JvmStatic
    private external fun version(): Int

    /** Called by the native code: the SHA-256 that the core borrows. */
    @JvmStatic
    fun sha256(parts: Array<ByteBuffer>): ByteArray =
        MessageDigest.getInstance("SHA-256").run {
            parts.forEach(::update)
            digest()
        }

    /** Throws [CoreLockerException] unless [error] is 0. */
    fun check(
        error: Int,
        what: String,
    ) {
        if (error == 0) return
        val word = errorName(error)
        throw CoreLockerException(checkNotNull(ErrorCode.of(word)) { "the C core has an unknown code $word" }, what)
    }
}
