package org.corelocker.demo

import org.corelocker.demo.model.SampleSet
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test
import java.nio.ByteBuffer
import kotlin.random.Random

class SampleSetTest {
    private fun head(vararg words: Int) = ByteBuffer.allocate(4 * words.size).apply { words.forEach(::putInt) }.array()

    private val images = head(0x803, 2, 28, 28) + ByteArray(2 * 784) { (it % 256).toByte() }
    private val labels = head(0x801, 2) + byteArrayOf(9, 0)

    @Test
    fun `reads images and labels`() {
        val samples = SampleSet.parse(images, labels)
        assertEquals(listOf(9, 0), samples.map { it.label })
        val input = samples[1].image.toInput()
        assertArrayEquals(FloatArray(784) { ((784 + it) % 256) / 255f }, input, 0f)
    }

    @Test
    fun `refuses what does not fit together`() {
        val wrong =
            listOf(
                images.copyOf(images.size - 1) to labels,
                images + 0 to labels,
                images to labels.copyOf(9),
                images to head(0x801, 3) + byteArrayOf(9, 0, 1),
                images to head(0x801, 2) + byteArrayOf(10, 0),
                head(0x803, 2, 27, 28) + ByteArray(2 * 756) to labels,
                head(0x803, -1, 28, 28) to labels,
                labels to labels,
                ByteArray(0) to ByteArray(0),
            )
        for ((x, y) in wrong) assertThrows(IllegalArgumentException::class.java) { SampleSet.parse(x, y) }
    }

    @Test
    fun `damaged files are refused or read, and do nothing else`() {
        val random = Random(7)
        repeat(2000) {
            val data = (images.copyOf(16) + images.copyOfRange(16, 16 + 784)).copyOf(random.nextInt(0, 801))
            repeat(random.nextInt(1, 4)) { if (data.isNotEmpty()) data[random.nextInt(minOf(data.size, 20))] = random.nextInt().toByte() }
            try {
                SampleSet.parse(data, labels)
            } catch (_: IllegalArgumentException) {
                // As it should.
            }
        }
    }
}
