package org.corelocker.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.UUID

/** The signed header of a key bundle, checked in the order of docs/formats.md. */
internal class BundleHeader private constructor(
    bytes: ByteArray,
    fields: Fields,
    val publisher: String,
) {
    val tiers: List<String> = fields.texts("tiers", MAX_TIER_NAME)
    val artifacts: List<BundledArtifact>
    val sections: List<Section>
    val bundle: UUID
    val model: String = fields.text("model", MAX_NAME)
    val modelVersion: Long = fields.integer("model_version", 0..StrictJson.MAX_INTEGER)

    /** Where the sections begin in the bundle. */
    val sectionsStart: Long = (START_SIZE + bytes.size + Es256.SIGNATURE_SIZE).toLong()
    private val digest = sha256(bytes)

    init {
        if (tiers.size !in 2..MAX_TIERS || tiers.toSet().size != tiers.size) {
            throw fields.refuse("tiers are not 2 to $MAX_TIERS different names")
        }
        artifacts = fields.objects("artifacts").map(::artifact)
        if (artifacts.isEmpty() || artifacts.distinctBy { it.name }.size != artifacts.size) {
            throw fields.refuse("artifacts are missing, or two have one name")
        }
        val id = fields.text("bundle", UUID_LENGTH)
        if (!UUID_TEXT.matches(id)) throw fields.refuse("bundle is no UUID in lower case")
        bundle = UUID.fromString(id)
        sections = sections(fields, artifacts, tiers.size)
    }

    /** What the encryption of a section binds it to: this header, and its place. */
    fun associatedData(section: Section): ByteArray =
        ByteBuffer
            .allocate(digest.size + Int.SIZE_BYTES)
            .order(ByteOrder.LITTLE_ENDIAN)
            .put(digest)
            .putInt(section.index)
            .array()

    companion object {
        private const val START_SIZE = 12
        private const val MAX_HEADER = 1 shl 20
        private const val FORMAT = "corelocker-key-bundle"
        private const val MAX_TIERS = 64
        private const val MAX_TIER_NAME = 64
        private const val MAX_FORMAT = 64
        private const val MAX_NAME = 256
        private const val MAX_PATH = 1024
        private const val UUID_LENGTH = 36
        private const val NONCE_SIZE = 12

        /** What AES-GCM can encrypt under one nonce (NIST SP 800-38D, section 5.2.1.1), and the tag. */
        private const val MAX_SECTION = (1L shl 36) - 32 + KeyBundle.TAG_SIZE
        private val UUID_TEXT = Regex("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
        private val VERSION = Regex("([0-9]{1,6})\\.[0-9]{1,6}")

        /** Throws [CoreLockerException] with the BUNDLE_* code of the first check that fails. */
        fun read(
            source: ByteSource,
            pinned: String?,
        ): BundleHeader {
            if (source.size < START_SIZE) throw refuse(ErrorCode.BUNDLE_TRUNCATED, "it has ${source.size} bytes")
            val start = ByteBuffer.wrap(source.bytes(0, START_SIZE)).order(ByteOrder.LITTLE_ENDIAN)
            val magic = ByteArray(8).also(start::get).toString(Charsets.ISO_8859_1)
            if (!magic.startsWith("CLKEYB")) throw refuse(ErrorCode.BUNDLE_MAGIC, "it does not begin with CLKEYB")
            if (!magic.endsWith("02")) throw refuse(ErrorCode.BUNDLE_VERSION, "it is of another version; lock the model again")
            val length = start.getInt().toUInt().toLong()
            if (length > MAX_HEADER) throw refuse(ErrorCode.BUNDLE_HEADER, "its header has $length bytes")
            val signedSize = (START_SIZE + length).toInt()
            if (source.size < signedSize + Es256.SIGNATURE_SIZE) throw refuse(ErrorCode.BUNDLE_TRUNCATED, "it ends in its header")
            val signed = source.bytes(0, signedSize)
            val bytes = signed.copyOfRange(START_SIZE, signedSize)
            val fields = Fields.parse(bytes, "the header of the key bundle", ErrorCode.BUNDLE_HEADER)
            val publisher = checkPublisher(fields, signed, source.bytes(signedSize.toLong(), Es256.SIGNATURE_SIZE))
            if (pinned != null && publisher != pinned) throw refuse(ErrorCode.BUNDLE_PUBLISHER, "it is of another publisher")
            val header = BundleHeader(bytes, fields, publisher)
            val end = header.sectionsStart + header.sections.sumOf(Section::length)
            if (source.size < end) throw refuse(ErrorCode.BUNDLE_TRUNCATED, "it has ${source.size} bytes of $end")
            if (source.size > end) throw refuse(ErrorCode.BUNDLE_TRAILING, "something follows its last section")
            return header
        }

        /** Version and signature come first: what an unknown version or a forger wrote is not looked at. */
        private fun checkPublisher(
            fields: Fields,
            signed: ByteArray,
            signature: ByteArray,
        ): String {
            if (Fields.textOrNull(fields.values["format"]) != FORMAT) throw fields.refuse("format is not $FORMAT")
            val version = VERSION.matchEntire(fields.text("version", 16)) ?: throw fields.refuse("version is not two numbers")
            if (version.groupValues[1] != "2") throw refuse(ErrorCode.BUNDLE_VERSION, "this release reads version 2")
            val publisher = fields.text("publisher", Jwk.THUMBPRINT_SIZE)
            val key = Jwk.keyOrNull(fields.values["publisher_key"]) ?: throw fields.refuse("publisher_key is no public key of P-256")
            if (Jwk.thumbprint(key) != publisher) throw fields.refuse("publisher is not the thumbprint of publisher_key")
            if (!Es256.verify(key, signature, signed)) throw refuse(ErrorCode.BUNDLE_SIGNATURE, "its signature does not fit")
            return publisher
        }

        private fun artifact(fields: Fields): BundledArtifact {
            val name = fields.text("name", MAX_NAME)
            if ('/' in name || !isInside(name)) throw fields.refuse("name is not that of a file or folder")
            val files =
                fields.objects("files").map { file ->
                    val path = file.text("path", MAX_PATH)
                    if (!isInside(path)) throw file.refuse("path leaves the artifact")
                    BundledFile(path, file.integer("size", 0..StrictJson.MAX_INTEGER), file.hex("sha256", Hkdf.HASH_SIZE))
                }
            if (files.isEmpty() || files.distinctBy { it.path }.size != files.size) {
                throw fields.refuse("files are missing, or two have one path")
            }
            return BundledArtifact(name, fields.text("format", MAX_FORMAT), files)
        }

        /** Whether a path is relative and stays where it begins. */
        private fun isInside(path: String) = '\\' !in path && path.split('/').none { it == "" || it == "." || it == ".." }

        private fun sections(
            fields: Fields,
            artifacts: List<BundledArtifact>,
            tiers: Int,
        ): List<Section> {
            val highest = HashMap<Pair<Int, Int>, Int>()
            var end = 0L
            return fields.objects("sections").mapIndexed { index, entry ->
                fun index(
                    name: String,
                    size: Int,
                ) = entry.integer(name, 0L..<size).toInt()
                val artifact = index("artifact", artifacts.size)
                val file = index("file", artifacts[artifact].files.size)
                val tier = entry.integer("tier", 1L..<tiers).toInt()
                if (tier <= (highest.put(artifact to file, tier) ?: 0)) throw entry.refuse("the tiers of a file do not ascend")
                if (entry.integer("offset", 0..StrictJson.MAX_INTEGER) != end) throw entry.refuse("it begins elsewhere than at $end")
                val length = entry.integer("length", KeyBundle.TAG_SIZE..MAX_SECTION)
                end += length
                val nonce = entry.base64url("nonce", NONCE_SIZE)
                val offset = end - length
                Section(index, artifact, file, tier, offset, length, nonce, entry.hex("sample", Hkdf.HASH_SIZE))
            }
        }

        private fun refuse(
            code: ErrorCode,
            reason: String,
        ) = CoreLockerException(code, "the key bundle: $reason")
    }
}
