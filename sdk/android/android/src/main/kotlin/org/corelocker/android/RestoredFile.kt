package org.corelocker.android

import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.ErrorCode
import org.corelocker.core.Patches
import java.io.File
import java.nio.ByteBuffer

/** Where the locked bytes of a model lie. */
internal sealed interface LockedBytes {
    /** A file, which somebody may have damaged: it is checked once as a whole. */
    class InFile(
        val file: File,
    ) : LockedBytes

    /** An uncompressed asset: [length] bytes at [offset] of an open file. The app package's signature vouches for it. */
    class InDescriptor(
        val fd: Int,
        val offset: Long,
        val length: Long,
    ) : LockedBytes
}

/**
 * When the whole file is read and its SHA-256 compared (docs/formats.md, Key bundle).
 *
 * ```
 * locker.restore("classifier.tflite", check = FullCheck.ONCE)
 * ```
 */
public enum class FullCheck(
    internal val number: Int,
) {
    /** [ONCE] where a patch flips elements, else [OFF]. */
    AUTOMATIC(0),

    /** Never: for files inside the app package, whose signature vouches for them. */
    OFF(1),

    /** When a file of this size, inode and modification time was not checked before: for downloaded models. */
    ONCE(2),

    /** At each restore. */
    ALWAYS(3),
}

/**
 * The bytes of a model in memory, restored as far as the license goes. Only the pages that a patch touches take memory. Nothing
 * is written to storage.
 *
 * ```
 * locker.restore("classifier.tflite").use { restored -> Interpreter(restored.buffer) }
 * ```
 *
 * @property buffer the bytes: direct and read-only. It must not be used after [close]. Without a [close] the memory is freed
 *   once nobody holds the buffer or a part of it.
 * @property tier the place of the tier that the bytes are in: 0 is locked.
 */
public class RestoredFile private constructor(
    private val memory: NativeMemory,
    public val buffer: ByteBuffer,
    public val tier: Int,
) : AutoCloseable {
    /** Bytes of memory that the file takes for itself. */
    public val privateBytes: Long get() = memory.use(NativeCore::privateBytes)

    /**
     * Throws [CoreLockerException] with FILE_CHANGED when somebody wrote to the file since; then [buffer] must not be read.
     *
     * ```
     * restored.requireUnchanged()                                         // before each run on a file that others can write
     * interpreter.run(input, output)
     * ```
     */
    public fun requireUnchanged(): Unit = NativeCore.check(memory.use { NativeCore.check(it) }, "a model's file was changed")

    /** What is remembered of a full check, so that the next process needs none; null where there was none. */
    internal fun stamp(): ByteArray? = memory.use(NativeCore::stamp)

    /** Gives the native handle away: whoever gets it closes it, and [buffer] must not be used any more. */
    @CoreLockerInternal
    public fun release(): Long = memory.release()

    /** Frees the memory. */
    override fun close(): Unit = memory.close()

    internal companion object {
        /** Throws [CoreLockerException] with a PATCH_*, RESTORE_*, FILE_* or MEMORY code. The patches are wiped. */
        @OptIn(CoreLockerInternal::class)
        fun open(
            bytes: LockedBytes,
            patches: Patches,
            fullCheck: FullCheck,
        ): RestoredFile {
            val handle = LongArray(1)
            val source = bytes as? LockedBytes.InDescriptor
            val error =
                NativeCore.open(
                    path = (bytes as? LockedBytes.InFile)?.file?.path?.toByteArray(),
                    fd = source?.fd ?: -1,
                    offset = source?.offset ?: 0,
                    length = source?.length ?: -1,
                    fileSize = patches.fileSize,
                    patches = patches.buffers.toTypedArray(),
                    digests = concatenate(patches.digests),
                    lockedSha256 = patches.lockedSha256,
                    fullCheck = fullCheck.number,
                    copy = false,
                    handle = handle,
                )
            NativeCore.check(error, "a model cannot be restored")
            val buffer = NativeCore.buffer(handle[0])
            if (buffer == null) {
                NativeCore.close(handle[0])
                throw CoreLockerException(ErrorCode.MEMORY, "a model of more than 2 GiB fits into no buffer")
            }
            return RestoredFile(NativeMemory(handle[0], buffer), buffer.asReadOnlyBuffer(), patches.tier)
        }

        private fun concatenate(parts: List<ByteArray>): ByteArray =
            ByteBuffer.allocate(parts.sumOf { it.size }).also { parts.forEach(it::put) }.array()
    }
}
