package org.corelocker.android

import kotlinx.serialization.json.JsonObject
import org.corelocker.core.ContentKey
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.KeyBundle
import org.corelocker.core.Patches
import org.corelocker.core.Vectors
import org.corelocker.core.base64
import org.corelocker.core.hex
import org.corelocker.core.number
import org.corelocker.core.objects
import org.corelocker.core.outcome
import org.corelocker.core.text
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.io.FileDescriptor
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ReadOnlyBufferException
import java.nio.file.Files

/** Kotlin, JNI and the C core against bundle.json and patch.json. */
@OptIn(CoreLockerInternal::class)
internal class RestoreTest {
    @TempDir
    lateinit var folder: File

    private val bundles = Vectors.load("bundle.json").objects("vectors")

    @TestFactory
    fun patches() =
        Vectors.tests(Vectors.load("patch.json")) { vector ->
            val data = vector.base64("patch")
            val patch = ByteBuffer.allocateDirect(data.size).put(data)
            val size =
                vector
                    .getValue("file_size")
                    .toString()
                    .toULong()
                    .toLong()
            assertEquals(vector.text("expect"), outcome { NativeCore.check(NativeCore.checkPatch(patch, size), "") })
        }

    @TestFactory
    fun restores(): List<DynamicTest> =
        bundles.filter { "restores" in it }.flatMap { vector ->
            vector.objects("restores").mapIndexed { index, restore ->
                DynamicTest.dynamicTest("${vector.text("name")} $index ${restore.text("comment")}") {
                    KeyBundle.open(vector.base64("bundle"), null).use { check(it, restore) }
                }
            }
        }

    private fun check(
        bundle: KeyBundle,
        restore: JsonObject,
    ) {
        val locked = restore.base64("locked")
        val file = File(folder, "locked").apply { writeBytes(locked) }
        val padded = File(folder, "padded").apply { writeBytes(ByteArray(4097) + locked + ByteArray(9)) }
        val check = if (restore.text("check") == "always") FullCheck.ALWAYS else FullCheck.OFF
        RandomAccessFile(padded, "r").use { opened ->
            val inside = LockedBytes.InDescriptor(number(opened.fd), 4097, locked.size.toLong())
            for (bytes in listOf(LockedBytes.InFile(file), inside)) {
                val result =
                    outcome {
                        patches(bundle, restore).use { patches ->
                            RestoredFile.open(bytes, patches, check).use { restored ->
                                assertArrayEquals(restore.base64("restored"), bytes(restored.buffer))
                                assertEquals(restore.number("tier").toInt(), restored.tier)
                                restored.requireUnchanged()
                            }
                            assertTrue(patches.buffers.all { patch -> bytes(patch).all { it == 0.toByte() } }, "a patch was not wiped")
                        }
                    }
                assertEquals(restore.text("expect"), result)
            }
        }
        assertArrayEquals(locked, file.readBytes())
    }

    private fun patches(
        bundle: KeyBundle,
        restore: JsonObject,
    ): Patches {
        val place = restore.number("artifact").toInt() to restore.number("file").toInt()
        val tier = restore.number("tier").toInt()
        return ContentKey(restore.hex("content_key")).use { bundle.patches(place, it, tier, tier) }
    }

    private fun bytes(buffer: ByteBuffer): ByteArray = buffer.duplicate().let { copy -> ByteArray(copy.remaining()).also(copy::get) }

    /** The number of a descriptor, which Java does not tell. Android does. */
    private fun number(descriptor: FileDescriptor): Int =
        FileDescriptor::class.java.getDeclaredField("fd").run {
            isAccessible = true
            getInt(descriptor)
        }

    private val good: Pair<KeyBundle, JsonObject> by lazy {
        val vector = bundles.first { it.text("name") == "restores-large" }
        KeyBundle.open(vector.base64("bundle"), null) to vector.objects("restores").first { it.text("expect") == "ok" }
    }

    private fun open(check: FullCheck = FullCheck.OFF): RestoredFile {
        val (bundle, restore) = good
        val file = File(folder, "locked").apply { if (!exists()) writeBytes(restore.base64("locked")) }
        return patches(bundle, restore).use { RestoredFile.open(LockedBytes.InFile(file), it, check) }
    }

    @Test
    fun `the buffer is read-only, and gone after a close`() {
        val restored = open()
        assertTrue(restored.buffer.isDirect)
        assertThrows(ReadOnlyBufferException::class.java) { restored.buffer.put(0, 1) }
        assertTrue(restored.privateBytes > 0)
        restored.close()
        restored.close()
        assertThrows(IllegalStateException::class.java) { restored.privateBytes }
        assertThrows(IllegalStateException::class.java) { restored.release() }
    }

    @Test
    fun `a file that is changed is found out`() {
        open().use { restored ->
            RandomAccessFile(File(folder, "locked"), "rw").use { it.setLength(it.length() + 1) }
            assertEquals("file-changed", outcome { restored.requireUnchanged() })
        }
        assertEquals("restore-size", outcome { open() })
    }

    @Test
    fun `a file that is not there is refused, and so is a folder`() {
        val (bundle, restore) = good
        for (bytes in listOf(LockedBytes.InFile(File(folder, "missing")), LockedBytes.InFile(folder))) {
            assertEquals("file-access", outcome { patches(bundle, restore).use { RestoredFile.open(bytes, it, FullCheck.OFF).close() } })
        }
        val closed = LockedBytes.InDescriptor(-1, 0, 1)
        assertEquals("file-access", outcome { patches(bundle, restore).use { RestoredFile.open(closed, it, FullCheck.OFF).close() } })
    }

    @Test
    fun `the app chooses when the whole file is compared`() {
        open(FullCheck.ONCE).close()
        val file = File(folder, "locked").toPath()
        val modified = Files.getLastModifiedTime(file)
        val damaged = Files.readAllBytes(file).also { it[UNSEEN] = (it[UNSEEN] + 1).toByte() }
        Files.write(file, damaged)
        open(FullCheck.OFF).close()
        for (check in listOf(FullCheck.ONCE, FullCheck.ALWAYS)) assertEquals("restore-restored", outcome { open(check) })
        // Whoever can write to a file and set its time back is not found out by a check that was made before.
        Files.setLastModifiedTime(file, modified)
        open(FullCheck.ONCE).close()
        assertEquals("restore-restored", outcome { open(FullCheck.ALWAYS) })
    }

    @Test
    fun `a full check is remembered, and outlives the process`() {
        open().use { assertEquals(null, it.stamp()) }
        val stamp = open(FullCheck.ONCE).use { checkNotNull(it.stamp()) }
        assertEquals(80, stamp.size)
        val stamps = Stamps(folder)
        repeat(3) { stamps.add(stamp) }
        assertArrayEquals(stamp, File(folder, "stamps").readBytes())
        repeat(70) { stamps.add(stamp.copyOf().apply { set(0, it.toByte()) }) }
        assertEquals(64 * 80, File(folder, "stamps").readBytes().size)
        Stamps(folder).load()
        assertNotNull(open(FullCheck.ONCE).use { it.stamp() })
        File(folder, "stamps").writeBytes(ByteArray(81))
        Stamps(folder).load()
    }

    @Test
    fun `nothing is left of thousands of files, closed or forgotten`() {
        fun descriptors() = checkNotNull(File("/proc/self/fd").list()).size

        fun mappings() = File("/proc/self/maps").readLines().count { it.endsWith("/locked") }
        repeat(100) { open().close() }
        val before = descriptors()
        repeat(10_000) { open().close() }
        assertTrue(descriptors() <= before + 2, "${descriptors()} descriptors, $before before")
        assertEquals(0, mappings())
        repeat(200) { open() }
        for (wait in 1..100) {
            if (mappings() == 0 && descriptors() <= before + 2) break
            System.gc()
            Thread.sleep(20)
        }
        assertEquals(0, mappings())
        assertTrue(descriptors() <= before + 2)
    }

    private companion object {
        /** A byte of the restores-large vector that no run touches and no sample holds. */
        const val UNSEEN = 100
    }
}
