package org.corelocker.demo.model

/**
 * What a tier is worth on this phone.
 *
 * @property correct how many of [total] test images got their label.
 * @property loadNanos to restore the model and load it.
 * @property imageNanos median time of one image.
 */
data class Measured(
    val tier: String,
    val correct: Int,
    val total: Int,
    val loadNanos: Long,
    val imageNanos: Long,
) {
    val accuracy: Float get() = correct.toFloat() / total
}

/**
 * Runs every sample through the model as far as the tier [upTo]. Throws [ModelException].
 *
 * @param progress is called with the number of samples that are done; it may throw to stop.
 */
fun measure(
    app: LockedApp,
    upTo: String,
    samples: List<Sample>,
    nanoTime: () -> Long = System::nanoTime,
    progress: (Int) -> Unit,
): Measured {
    val start = nanoTime()
    app.classifier(upTo).use { classifier ->
        // The first image also pays for what the runtime sets up.
        classifier.scores(samples.first().image.toInput())
        val loaded = nanoTime()
        var correct = 0
        val times =
            samples.mapIndexed { done, sample ->
                progress(done)
                val input = sample.image.toInput()
                val began = nanoTime()
                val scores = classifier.scores(input)
                val ended = nanoTime()
                if (predictions(scores).first().label == sample.label) correct++
                ended - began
            }
        progress(samples.size)
        return Measured(classifier.tier, correct, samples.size, loaded - start, times.sorted()[times.size / 2])
    }
}
