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

    private fun residentKibibytes(): Int {
        System.gc()
        return File("/proc/self/statm").readText().split(' ')[1].toInt() * PAGE_KIBIBYTES
    }

    @Test
    fun `nothing is left of ten thousand models`() {
        val model = Locks.models.first { it.name == "tiny" }
        val input = model.input()
        val expected = Locks.module(listOf(Locks.openOriginal("tiny.pte"))).use { it.output(input) }

        fun cycles(count: Int) =
            repeat(count) {
                Locks.module(listOf(Locks.restore("tiny.pte"))).use { assertArrayEquals(expected, it.output(input)) }
            }
        cycles(WARM_UP)
        val (before, mapped) = descriptors() to mappings()
        val growth = ArrayList<Int>()

        fun recent() = growth.takeLast(RECENT).sum()
        // What leaks grows in each round; what allocators and the JVM keep for themselves does not, after a while.
        while (growth.size < ROUNDS || (recent() > MOST_GROWTH_KIBIBYTES && growth.size < MOST_ROUNDS)) {
            val earlier = residentKibibytes()
            cycles(CYCLES)
            growth += residentKibibytes() - earlier
        }
        println("SOAK: ${growth.size * CYCLES} cycles; resident memory grew by $growth KiB")
        assertTrue(descriptors() <= before + 2, "${descriptors()} descriptors, $before before")
        assertTrue(mappings() <= mapped + MAPPINGS_OF_THE_JVM, "${mappings()} mappings, $mapped before")
        assertEquals(0, File("/proc/self/maps").readLines().count { it.endsWith("/tiny.pte") })
        assertTrue(recent() <= MOST_GROWTH_KIBIBYTES, "$growth KiB")
    }

    private companion object {
        const val WARM_UP = 2_000
        const val ROUNDS = 5
        const val CYCLES = 2_000
        const val MOST_ROUNDS = 20

        const val RECENT = 3

        /** In recent rounds: half a kilobyte a model. */
        const val MOST_GROWTH_KIBIBYTES = 3000
        const val PAGE_KIBIBYTES = 4
        const val MAPPINGS_OF_THE_JVM = 64
    }
}
