package org.corelocker.executorch

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.io.File

/** Ten thousand models are opened, restored, run and closed, and nothing is left of them. */
internal class SoakTest {
    private fun descriptors() = checkNotNull(File("/proc/self/fd").list()).size

    private fun mappings() = File("/proc/self/maps").readLines().size

    private fun residentMebibytes() =
        File("/proc/self/statm")
            .readText()
            .split(' ')[1]
            .toInt() * PAGE / MEBIBYTE

    @Test
    fun `nothing is left of ten thousand models`() {
        val model = Locks.models.first { it.name == "tiny" }
        val input = model.input()
        val expected = Locks.module(listOf(Locks.openOriginal("tiny.pte"))).use { it.output(input) }

        fun cycles(count: Int) =
            repeat(count) {
                Locks.module(listOf(Locks.restore("tiny.pte"))).use { assertArrayEquals(expected, it.output(input)) }
            }
        // What allocators and the JVM keep for themselves grows at the start.
        cycles(WARM_UP)
        System.gc()
        val (before, mapped, resident) = Triple(descriptors(), mappings(), residentMebibytes())
        cycles(CYCLES)
        System.gc()
        println("SOAK: $CYCLES cycles; resident memory $resident MiB before, ${residentMebibytes()} MiB after")
        assertTrue(descriptors() <= before + 2, "${descriptors()} descriptors, $before before")
        assertTrue(mappings() <= mapped + MAPPINGS_OF_THE_JVM, "${mappings()} mappings, $mapped before")
        assertEquals(0, File("/proc/self/maps").readLines().count { it.endsWith("/tiny.pte") })
        assertTrue(residentMebibytes() <= resident + GROWTH, "${residentMebibytes()} MiB, $resident before")
    }

    private companion object {
        const val WARM_UP = 4_000
        const val CYCLES = 10_000
        const val PAGE = 4096
        const val MEBIBYTE = 1 shl 20
        const val MAPPINGS_OF_THE_JVM = 64

        /** The JVM's own memory moves by that much; two kilobytes that are lost in each cycle make more. */
        const val GROWTH = 16
    }
}
