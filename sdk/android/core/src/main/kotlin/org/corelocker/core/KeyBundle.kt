package org.corelocker.core

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.StandardOpenOption
import java.security.GeneralSecurityException
import java.util.UUID
import javax.crypto.Cipher
import javax.crypto.spec.GCMParameterSpec
import javax.crypto.spec.SecretKeySpec

/**
 * A file of an artifact.
 *
 * ```
 * val bytes = bundle.artifacts.flatMap { it.files }.sumOf { it.size }
 * ```
 *
 * @property path where it is inside of the artifact: the artifact's name for a single file.
 * @property size in bytes, the same locked and restored.
 */
public class BundledFile internal constructor(
    public val path: String,
    public val size: Long,
    internal val sha256: ByteArray,
)

/**
 * A locked model of a key bundle.
 *
 * ```
 * val models = bundle.artifacts.filter { it.format == "executorch" }.map { it.name }
 * ```
 *
 * @property name of the file or folder that was locked.
 * @property format "executorch", "coreml" or "safetensors".
 * @property files of it, one or more.
 */
public class BundledArtifact internal constructor(
    public val name: String,
    public val format: String,
    public val files: List<BundledFile>,
)

/** Where the encrypted patch is that brings a file to [tier]; `sample` is that of the locked file with the patch's runs. */
internal class Section(
    val index: Int,
    val artifact: Int,
    val file: Int,
    val tier: Int,
    val offset: Long,
    val length: Long,
    val nonce: ByteArray,
    val sample: ByteArray,
)

/**
 * An opened section. [patch] is native memory; [close] wipes it.
 *
 * @property sample of the file after this patch, 32 bytes.
 * @property fileDigest SHA-256 of the whole file after this patch.
 */
internal class OpenSection(
    val section: Section,
    val sample: ByteArray,
    val fileDigest: ByteArray,
    val patch: ByteBuffer,
    private val plaintext: ByteBuffer,
) : AutoCloseable {
    override fun close() = plaintext.wipe()
}

/** Overwrites everything in a buffer with zeros. */
internal fun ByteBuffer.wipe() {
    clear()
    while (remaining() >= Long.SIZE_BYTES) putLong(0)
    while (hasRemaining()) put(0)
}

/**
 * A key bundle (`.clkey`): the patches of all tiers and artifacts, encrypted, behind a signed header (docs/formats.md, Key
 * bundle). Signature, header and length are checked when it is opened; sections are read when they are needed.
 *
 * ```
 * KeyBundle.open(file, config.publisher).use { bundle -> println(bundle.tiers) }
 * ```
 *
 * @property id of this bundle; a license is for one.
 * @property model id of the model, the same for all its versions.
 * @property modelVersion of the model; it only rises.
 * @property publisher thumbprint of the key that has signed it.
 * @property tiers names: tier 0, which ships locked, first; the last restores everything.
 * @property artifacts the locked models.
 */
public class KeyBundle internal constructor(
    private val source: ByteSource,
    private val header: BundleHeader,
) : AutoCloseable {
    public val id: UUID get() = header.bundle
    public val model: String get() = header.model
    public val modelVersion: Long get() = header.modelVersion
    public val publisher: String get() = header.publisher
    public val tiers: List<String> get() = header.tiers
    public val artifacts: List<BundledArtifact> get() = header.artifacts
    internal val sections: List<Section> get() = header.sections

    /**
     * The place of a tier among [tiers]. Throws [CoreLockerException] with BUNDLE_MISMATCH when there is none.
     *
     * ```
     * val isComplete = restored.tier == bundle.tier("full")
     * ```
     */
    public fun tier(name: String): Int {
        val index = tiers.indexOf(name)
        if (index < 0) throw CoreLockerException(ErrorCode.BUNDLE_MISMATCH, "the key bundle has no such tier; it has $tiers")
        return index
    }

    /**
     * The places of an artifact and its file. [path] may be left out when the artifact has one file, or one of the artifact's name; a
     * file of another name (`classifier.ptd`) is found by its own, when one artifact alone has it.
     */
    internal fun place(
        artifact: String,
        path: String?,
    ): Pair<Int, Int> {
        val index = artifacts.indexOfFirst { it.name == artifact }
        val files = artifacts.getOrNull(index)?.files.orEmpty()
        val file = if (path == null && files.size == 1) 0 else files.indexOfFirst { it.path == (path ?: artifact) }
        if (file >= 0) return index to file
        val places = if (path == null) artifacts.indices.flatMap { of -> placesOf(of, artifact) } else emptyList()
        return places.singleOrNull() ?: throw CoreLockerException(ErrorCode.BUNDLE_MISMATCH, "the key bundle has no such artifact and file")
    }

    private fun placesOf(
        artifact: Int,
        path: String,
    ) = artifacts[artifact]
        .files
        .withIndex()
        .filter { it.value.path == path }
        .map { artifact to it.index }

    /**
     * Decrypts the patches that bring a file from its locked state to tier [to].
     *
     * @param place of the artifact and its file.
     * @param key the content key of tier [from], which is [to] or a higher one; null for tier 0.
     */
    @CoreLockerInternal
    internal fun patches(
        place: Pair<Int, Int>,
        key: ContentKey?,
        from: Int,
        to: Int,
    ): Patches {
        val (artifact, file) = place
        val wanted = sections.filter { it.artifact == artifact && it.file == file && it.tier <= to }
        val opened = ArrayList<OpenSection>()
        try {
            for (section in wanted) {
                checkNotNull(key) { "a patch needs a key" }.derive(id, from, section.tier).use { opened.add(decrypt(section, it)) }
            }
        } catch (refused: CoreLockerException) {
            opened.forEach(OpenSection::close)
            throw refused
        }
        val entry = artifacts[artifact].files[file]
        return Patches(to, entry.size, entry.sha256, opened)
    }

    /** Opens a section with the content key of its tier. Takes as much native memory as the section is long. */
    internal fun decrypt(
        section: Section,
        key: ContentKey,
    ): OpenSection {
        val plaintext = nativeMemory(section.length - TAG_SIZE)
        try {
            val encrypted = source.read(header.sectionsStart + section.offset, section.length)
            Cipher.getInstance("AES/GCM/NoPadding").run {
                init(Cipher.DECRYPT_MODE, SecretKeySpec(key.bytes, "AES"), GCMParameterSpec(8 * TAG_SIZE.toInt(), section.nonce))
                updateAAD(header.associatedData(section))
                doFinal(encrypted, plaintext)
            }
            return read(section, plaintext)
        } catch (_: GeneralSecurityException) {
            plaintext.wipe()
            throw CoreLockerException(ErrorCode.BUNDLE_CONTENT_KEY, "the content key does not open section ${section.index}")
        } catch (refused: CoreLockerException) {
            plaintext.wipe()
            throw refused
        }
    }

    private fun nativeMemory(size: Long): ByteBuffer =
        try {
            ByteBuffer.allocateDirect(Math.toIntExact(size)).order(ByteOrder.LITTLE_ENDIAN)
        } catch (_: OutOfMemoryError) {
            throw CoreLockerException(ErrorCode.MEMORY, "there is no memory for a patch of $size bytes")
        } catch (_: ArithmeticException) {
            throw CoreLockerException(ErrorCode.MEMORY, "a patch of $size bytes is more than a buffer holds")
        }

    private fun read(
        section: Section,
        plaintext: ByteBuffer,
    ): OpenSection {
        plaintext.flip()
        val size = if (plaintext.remaining() >= Int.SIZE_BYTES) plaintext.getInt() else -1
        if (size !in 0..MAX_DIGESTS || size > plaintext.remaining()) {
            throw CoreLockerException(ErrorCode.BUNDLE_HEADER, "section ${section.index} is malformed")
        }
        val json = ByteArray(size).also(plaintext::get)
        val fields = Fields.parse(json, "section ${section.index}", ErrorCode.BUNDLE_HEADER)
        val sample = fields.hex("sample", Hkdf.HASH_SIZE)
        return OpenSection(section, sample, fields.hex("file", Hkdf.HASH_SIZE), plaintext.slice(), plaintext)
    }

    override fun close(): Unit = source.close()

    override fun toString(): String = "KeyBundle($id, $model version $modelVersion)"

    public companion object {
        internal const val TAG_SIZE = 16L
        private const val MAX_DIGESTS = 4096

        /**
         * Opens a bundle.
         *
         * @param publisher thumbprint of the key that has to have signed it; null says only that it is whole, not whose it is.
         * @throws CoreLockerException with the BUNDLE_* code of the first check that fails, or FILE_ACCESS.
         */
        public fun open(
            file: File,
            publisher: String?,
        ): KeyBundle {
            var channel: FileChannel? = null
            try {
                channel = FileChannel.open(file.toPath(), StandardOpenOption.READ)
                return open(channel, 0, channel.size(), publisher)
            } catch (refused: CoreLockerException) {
                channel?.close()
                throw refused
            } catch (_: IOException) {
                channel?.close()
                throw CoreLockerException(ErrorCode.FILE_ACCESS, "the key bundle cannot be read")
            }
        }

        /** Opens a bundle that lies inside a file: an asset of an app. The channel is closed with the bundle. */
        public fun open(
            channel: FileChannel,
            offset: Long,
            size: Long,
            publisher: String?,
        ): KeyBundle = read(FileSource(channel, offset, size), publisher)

        /** Opens a bundle in memory, which must not change while it is used. */
        public fun open(
            bytes: ByteArray,
            publisher: String?,
        ): KeyBundle = read(MemorySource(bytes), publisher)

        private fun read(
            source: ByteSource,
            publisher: String?,
        ) = KeyBundle(source, BundleHeader.read(source, publisher))
    }
}

/** Bytes that lie somewhere. */
internal interface ByteSource : AutoCloseable {
    val size: Long

    /** [length] bytes. The caller has checked that they are inside. */
    fun read(
        offset: Long,
        length: Long,
    ): ByteBuffer

    fun bytes(
        offset: Long,
        length: Int,
    ): ByteArray = ByteArray(length).also { read(offset, length.toLong()).get(it) }
}

private class MemorySource(
    private val data: ByteArray,
) : ByteSource {
    override val size get() = data.size.toLong()

    override fun read(
        offset: Long,
        length: Long,
    ): ByteBuffer = ByteBuffer.wrap(data, offset.toInt(), length.toInt())

    override fun close() = Unit
}

private class FileSource(
    private val channel: FileChannel,
    private val start: Long,
    override val size: Long,
) : ByteSource {
    // Read, not mapped: a mapping that somebody shortens ends the process.
    override fun read(
        offset: Long,
        length: Long,
    ): ByteBuffer {
        val buffer = ByteBuffer.allocate(length.toInt())
        try {
            while (buffer.hasRemaining()) {
                if (channel.read(buffer, start + offset + buffer.position()) < 0) {
                    throw CoreLockerException(ErrorCode.BUNDLE_TRUNCATED, "the key bundle was shortened")
                }
            }
        } catch (_: IOException) {
            throw CoreLockerException(ErrorCode.FILE_ACCESS, "the key bundle cannot be read")
        }
        buffer.flip()
        return buffer
    }

    override fun close() = channel.close()
}
