package org.corelocker.demo.screens

import androidx.lifecycle.ViewModel
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.Measured
import org.corelocker.demo.model.ModelException
import org.corelocker.demo.model.Sample
import org.corelocker.demo.model.measure
import org.corelocker.demo.model.tierOf

/** A measurement that runs: [done] of [total] images through [tier]. */
data class Progress(
    val tier: String,
    val done: Int,
    val total: Int,
)

/** What the screen shows: a row for each tier that was measured, the locked one first. */
data class CompareState(
    val measured: List<Measured> = emptyList(),
    val progress: Progress? = null,
    val failure: String? = null,
)

/** Measures the model in each tier that the license opens, the locked one first. */
class CompareViewModel(
    private val app: LockedApp,
    private val samples: List<Sample>,
    private val worker: CoroutineDispatcher = Dispatchers.Default,
) : ViewModel() {
    private val states = MutableStateFlow(CompareState())
    val state: StateFlow<CompareState> = states.asStateFlow()
    private var job: Job? = null

    fun measure() {
        job?.cancel()
        states.value = CompareState(progress = Progress(app.tiers.first(), 0, samples.size))
        job =
            viewModelScope.launch {
                try {
                    for (tier in openTiers()) {
                        val row = withContext(worker) { measureTier(tier) }
                        states.update { it.copy(measured = it.measured + row) }
                    }
                } catch (fails: ModelException) {
                    states.update { it.copy(failure = fails.code) }
                } finally {
                    states.update { it.copy(progress = null) }
                }
            }
    }

    fun stop() {
        job?.cancel()
    }

    private fun openTiers(): List<String> {
        val highest = app.state.value.tierOf(app.tiers) ?: app.tiers.first()
        return app.tiers.take(app.tiers.indexOf(highest) + 1)
    }

    private fun CoroutineScope.measureTier(tier: String): Measured =
        measure(app, tier, samples) { done ->
            ensureActive()
            states.update { it.copy(progress = Progress(tier, done, samples.size)) }
        }
}
