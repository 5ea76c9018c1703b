package org.corelocker.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.UUID

/** The 32-byte secret that opens a tier's patches and those of all tiers below. Close it as soon as it was used: [close] wipes it. */
internal class ContentKey(
    val bytes: ByteArray,
) : AutoCloseable {
    init {
        if (bytes.size != SIZE) throw CoreLockerException(ErrorCode.BUNDLE_CONTENT_KEY, "a content key has $SIZE bytes")
    }

    /**
     * The key of tier [to], where this one is that of tier [from] of the bundle with this id:
     * HKDF-SHA256 with the bundle's id as salt, once for each tier (docs/formats.md, Content keys).
     */
    fun derive(
        bundle: UUID,
        from: Int,
        to: Int,
    ): ContentKey {
        require(to in 0..from) { "the key of a lower tier opens no higher one" }
        val salt =
            ByteBuffer
                .allocate(16)
                .putLong(bundle.mostSignificantBits)
                .putLong(bundle.leastSignificantBits)
                .array()
        var key = bytes.copyOf()
        for (tier in from - 1 downTo to) {
            val number =
                ByteBuffer
                    .allocate(4)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putInt(tier)
                    .array()
            val lower = Hkdf.expand(Hkdf.extract(salt, key), INFO + number, SIZE)
            key.fill(0)
            key = lower
        }
        return ContentKey(key)
    }

    override fun close(): Unit = bytes.fill(0)

    override fun toString(): String = "ContentKey"

    companion object {
        const val SIZE = 32
        private val INFO = "corelocker tier v1".toByteArray()
    }
}
