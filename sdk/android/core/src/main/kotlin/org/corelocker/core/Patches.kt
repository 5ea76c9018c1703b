package org.corelocker.core

import java.nio.ByteBuffer

/** For the modules of CoreLocker alone; it may change in every version. */
@RequiresOptIn("This is for the modules of CoreLocker.", RequiresOptIn.Level.ERROR)
@Retention(AnnotationRetention.BINARY)
@Target(AnnotationTarget.CLASS, AnnotationTarget.FUNCTION, AnnotationTarget.PROPERTY)
public annotation class CoreLockerInternal

/**
 * The decrypted patches of a file up to a tier, in the order to apply, in native memory; [close] wipes them. Reading and
 * applying them is the C core's.
 *
 * @property tier the tier that they lead to; 0 when there are none.
 * @property fileSize bytes of the file, the same locked and restored.
 * @property lockedSha256 SHA-256 of the locked file, 32 bytes.
 */
@CoreLockerInternal
public class Patches internal constructor(
    public val tier: Int,
    public val fileSize: Long,
    public val lockedSha256: ByteArray,
    private val sections: List<OpenSection>,
) : AutoCloseable {
    /** The patches. Whoever applies them may wipe them. */
    public val buffers: List<ByteBuffer> get() = sections.map(OpenSection::patch)

    /** For each patch: the sample of the locked file, the sample of the file after it, the SHA-256 of the file after it. */
    public val digests: List<ByteArray> get() = sections.flatMap { listOf(it.section.sample, it.sample, it.fileDigest) }

    override fun close(): Unit = sections.forEach(OpenSection::close)
}
