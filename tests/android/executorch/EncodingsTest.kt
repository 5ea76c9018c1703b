package org.corelocker.executorch

import org.corelocker.android.RestoredFile
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Sign locks of every encoding (32-bit and 16-bit floats, int8, 4-bit, weights in a file of their own) through Kotlin and ExecuTorch. */
internal class EncodingsTest {
    @TempDir
    lateinit var folder: File

    private fun bytes(file: RestoredFile) = ByteArray(file.buffer.remaining()).also(file.buffer.duplicate()::get)

    private fun run(
        model: Locks.Model,
        open: (String) -> RestoredFile,
    ) = Locks.module(model.files.map(open)).use { it.output(model.input()) }

    @TestFactory
    fun `restores the original, bit for bit`(): List<DynamicTest> =
        Locks.models.map { model ->
            DynamicTest.dynamicTest(model.name) {
                var changed = 0
                for (file in model.files) {
                    val original = Locks.original(file).readBytes()
                    Locks.restore(file).use { assertArrayEquals(original, bytes(it)) }
                    Locks.restore(file, restored = false).use { if (!original.contentEquals(bytes(it))) changed++ }
                }
                assertTrue(changed > 0)
                val original = run(model, Locks::openOriginal)
                assertArrayEquals(original, run(model, Locks::restore))
                assertFalse(original.contentEquals(run(model) { Locks.restore(it, restored = false) }))
            }
        }

    @Test
    fun `tells methods and backends, as ExecuTorch's Module does`() {
        val backends = Locks.models.associate { it.name to Locks.module(it.files.map(Locks::restore)).use(::backends) }
        assertEquals(setOf("XnnpackBackend"), backends.getValue("fp32"))
        assertEquals(emptySet<String>(), backends.getValue("fp16"))
        Locks.module(listOf(Locks.restore("tiny.pte"))).use { module ->
            assertEquals("forward", module.getMethodMetadata("forward").name)
            assertThrows(IllegalArgumentException::class.java) { module.getMethodMetadata("backward") }
        }
    }

    private fun backends(module: LockedModule) = module.getMethodMetadata("forward").backends.toSet()

    @Test
    fun `remembers what ExecuTorch logs`() {
        Locks.module(listOf(Locks.restore("tiny.pte"))).use { module ->
            assertThrows(LockedModuleException::class.java) { module.loadMethod("backward") }
            assertTrue(module.readLogBuffer().any { "'backward'" in it && "] E " in it })
            repeat(100) { assertThrows(LockedModuleException::class.java) { module.loadMethod("b\u00e4ckward $it") } }
            val lines = LockedModule.readLogBufferStatic()
            assertEquals(64, lines.size)
            assertTrue("ckward 99" in lines.last(), lines.last())
        }
    }

    @Test
    fun `writes profiles, which hold no weight`() {
        val model = Locks.models.first { it.name == "fp32" }
        val file = File(folder, "profile.etdump")
        Locks.module(listOf(Locks.restore("fp32.pte"))).use { module ->
            assertFalse(module.etdump(file.path))
            val first = module.output(model.input())
            assertTrue(module.etdump(file.path))
            val profile = file.readBytes()
            assertEquals("ED00", String(profile, 8, 4, Charsets.US_ASCII))
            assertTrue(profile.size < 64 shl 10, "${profile.size} bytes")
            // A module goes on after a profile, and can write another one.
            assertArrayEquals(first, module.output(model.input()))
            assertFalse(module.etdump(File(folder, "missing/profile").path))
            assertTrue(module.etdump(file.path))
            assertFalse(module.etdump(file.path))
        }
    }
}
