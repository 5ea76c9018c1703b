package org.corelocker.demo

import org.corelocker.core.LockState
import org.corelocker.demo.model.measure
import org.corelocker.demo.model.predictions
import org.corelocker.demo.screens.CompareViewModel
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

class CompareViewModelTest {
    @get:Rule
    val main = MainDispatcherRule()

    private val app = FakeApp()
    private val model by lazy { CompareViewModel(app, fakeSamples(2), main.dispatcher) }

    private fun correct() =
        model.state.value.measured
            .map { it.tier to it.correct }

    @Test
    fun `measures each tier that is open`() {
        model.measure()
        assertEquals(listOf("free" to 2), correct())
        app.state.value = LockState.Unlocked("full", null)
        model.measure()
        assertEquals(listOf("free" to 2, "plus" to 10, "full" to 20), correct())
        assertEquals(
            1f,
            model.state.value.measured
                .last()
                .accuracy,
        )
        assertNull(model.state.value.progress)
        assertEquals(0, app.open)
    }

    @Test
    fun `says what keeps the model from running`() {
        app.modelFails = "memory"
        model.measure()
        assertEquals("memory", model.state.value.failure)
        assertNull(model.state.value.progress)
        app.modelFails = null
        model.measure()
        assertNull(model.state.value.failure)
    }

    @Test
    fun `takes the median time of an image, and the time to load`() {
        val clock = longArrayOf(0, 100).iterator()
        val times = longArrayOf(5, 1, 9, 2, 7, 3, 8, 4, 6, 50)
        var now = 100L
        var call = 0

        fun nanoTime(): Long {
            if (clock.hasNext()) return clock.next()
            if (call % 2 == 1) now += times[call / 2]
            call++
            return now
        }
        val measured = measure(app, "free", fakeSamples(), ::nanoTime) {}
        assertEquals(100, measured.loadNanos)
        assertEquals(6, measured.imageNanos)
    }

    @Test
    fun `stops where progress says so, and closes the model`() {
        assertThrows(IllegalStateException::class.java) { measure(app, "free", fakeSamples()) { check(it < 3) } }
        assertEquals(0, app.open)
    }

    @Test
    fun `probabilities add up, the likeliest first, also for large scores`() {
        val found = predictions(floatArrayOf(1000f, 1001f, -1000f))
        assertEquals(listOf(1, 0, 2), found.map { it.label })
        assertEquals(1f, found.map { it.probability }.sum(), 1e-6f)
        assertTrue(found.first().probability > 0.7f)
    }
}
