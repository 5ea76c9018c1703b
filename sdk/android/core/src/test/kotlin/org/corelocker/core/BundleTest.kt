package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.file.StandardOpenOption
import java.util.HexFormat

/** Key bundles against bundle.json: header and sections. What patches do to a file is the C core's to check. */
internal class BundleTest {
    @TempDir
    lateinit var folder: File

    private val vectors = Vectors.load("bundle.json")

    @TestFactory
    fun bundles() =
        Vectors.tests(vectors) { vector ->
            val data = vector.base64("bundle")
            val publisher = vector.textOrNull("publisher")
            assertEquals(vector.text("expect"), outcome { KeyBundle.open(data, publisher).use { check(vector, it) } })
            // The same from a file, and from the middle of one.
            val whole = File(folder, "whole.clkey").apply { writeBytes(data) }
            assertEquals(vector.text("expect"), outcome { KeyBundle.open(whole, publisher).use { check(vector, it) } })
            val padded = File(folder, "padded.bin").apply { writeBytes(ByteArray(7) + data + ByteArray(5)) }
            FileChannel.open(padded.toPath(), StandardOpenOption.READ).use { channel ->
                val opened = outcome { check(vector, KeyBundle.open(channel, 7, data.size.toLong(), publisher)) }
                assertEquals(vector.text("expect"), opened)
            }
        }

    private fun check(
        vector: JsonObject,
        bundle: KeyBundle,
    ) {
        if ("id" in vector) {
            assertEquals(vector.text("id"), bundle.id.toString())
            assertEquals(vector.text("model"), bundle.model)
            assertEquals(vector.number("model_version"), bundle.modelVersion)
            assertEquals(vector.list("tiers").map { it.jsonPrimitive.content }, bundle.tiers)
        }
        if ("sections" in vector) vector.objects("sections").forEach { checkSection(it, bundle) }
    }

    private fun checkSection(
        expected: JsonObject,
        bundle: KeyBundle,
    ) {
        val section = bundle.sections[expected.number("index").toInt()]
        val result =
            outcome {
                ContentKey(expected.hex("content_key")).use { key ->
                    val open = bundle.decrypt(section, key)
                    assertEquals(expected.text("sample"), HexFormat.of().formatHex(open.sample))
                    assertEquals(expected.text("file"), HexFormat.of().formatHex(open.fileDigest))
                    assertArrayEquals(expected.base64("patch"), bytes(open.patch))
                    assertTrue(open.patch.isDirect)
                    open.close()
                    assertTrue(bytes(open.patch).all { it == 0.toByte() }, "a patch was not wiped")
                }
            }
        assertEquals(expected.text("expect"), result)
    }

    private fun bytes(buffer: ByteBuffer): ByteArray = buffer.duplicate().let { copy -> ByteArray(copy.remaining()).also(copy::get) }

    @Test
    fun `refuses a file that is not there`() {
        assertEquals("file-access", outcome { KeyBundle.open(File(folder, "missing.clkey"), null) })
    }

    @Test
    fun `finds tiers by name`() {
        val bundle = KeyBundle.open(vectors.objects("vectors").first().base64("bundle"), null)
        assertEquals(2, bundle.tier("full"))
        assertEquals("bundle-mismatch", outcome { bundle.tier("gold") })
    }
}
