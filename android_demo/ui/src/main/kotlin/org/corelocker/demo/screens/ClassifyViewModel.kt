package org.corelocker.demo.screens

import androidx.compose.ui.graphics.ImageBitmap
import androidx.lifecycle.ViewModel
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.mapNotNull
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.corelocker.demo.model.Classifier
import org.corelocker.demo.model.GrayImage
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.ModelException
import org.corelocker.demo.model.Prediction
import org.corelocker.demo.model.Sample
import org.corelocker.demo.model.predictions
import org.corelocker.demo.model.tierOf

/** What is shown to the model. */
sealed interface Subject {
    /** The sample at [index] of the gallery; [label] is what it is. */
    data class OfGallery(
        val index: Int,
        val label: Int,
    ) : Subject

    data class Photo(
        val bitmap: ImageBitmap,
    ) : Subject
}

/** What keeps the model from an answer. */
sealed interface Failure {
    data object PhotoUnreadable : Failure

    data class ModelFails(
        val code: String,
    ) : Failure
}

/**
 * What the screen shows.
 *
 * @property gallery the test pictures, small.
 * @property seen the subject as the model sees it.
 * @property tier the tier that the predictions are of.
 * @property predictions all classes, the likeliest first; none until there is an answer.
 */
data class ClassifyState(
    val gallery: List<ImageBitmap> = emptyList(),
    val subject: Subject? = null,
    val seen: ImageBitmap? = null,
    val tier: String? = null,
    val predictions: List<Prediction> = emptyList(),
    val failure: Failure? = null,
)

/** Classifies samples and photos, and does so again when a license changes what the model is worth. */
class ClassifyViewModel(
    private val app: LockedApp,
    samples: List<Sample>,
    dispatcher: CoroutineDispatcher = Dispatchers.Default,
) : ViewModel() {
    private val gallery = samples.take(GALLERY)
    private val states = MutableStateFlow(ClassifyState(gallery.map { it.image.toBitmap() }))
    val state: StateFlow<ClassifyState> = states.asStateFlow()

    /** One thing at a time: the model, and the image that it is asked about. */
    private val worker = dispatcher.limitedParallelism(1)
    private var classifier: Classifier? = null
    private var image: GrayImage? = null
    private var job: Job? = null

    init {
        chooseSample(0)
        viewModelScope.launch {
            app.state
                .mapNotNull { it.tierOf(app.tiers) }
                .distinctUntilChanged()
                .collect { classify(reload = true) }
        }
    }

    fun chooseSample(index: Int) {
        val sample = gallery[index]
        show(Subject.OfGallery(index, sample.label), sample.image)
    }

    /** [bitmap] is null for a file that is no picture. */
    fun choosePhoto(bitmap: ImageBitmap?) {
        viewModelScope.launch {
            try {
                val photo = requireNotNull(bitmap) { "this is no picture" }
                show(Subject.Photo(photo), withContext(worker) { GrayImage.of(photo) })
            } catch (_: IllegalArgumentException) {
                states.update { it.copy(failure = Failure.PhotoUnreadable) }
            }
        }
    }

    private fun show(
        subject: Subject,
        seen: GrayImage,
    ) {
        image = seen
        states.update { it.copy(subject = subject, seen = seen.toBitmap(), predictions = emptyList(), failure = null) }
        classify(reload = false)
    }

    private fun classify(reload: Boolean) {
        val input = image?.toInput() ?: return
        job?.cancel()
        job =
            viewModelScope.launch {
                try {
                    val (tier, scores) =
                        withContext(worker) {
                            val model = model(reload)
                            model.tier to model.scores(input)
                        }
                    states.update { it.copy(tier = tier, predictions = predictions(scores), failure = null) }
                } catch (fails: ModelException) {
                    states.update { it.copy(predictions = emptyList(), failure = Failure.ModelFails(fails.code)) }
                }
            }
    }

    private fun model(reload: Boolean): Classifier {
        if (reload) {
            classifier?.close()
            classifier = null
        }
        return classifier ?: app.classifier().also { classifier = it }
    }

    /** After what the worker does now. */
    override fun onCleared() {
        CoroutineScope(worker).launch { classifier?.close() }
    }

    private companion object {
        const val GALLERY = 10
    }
}
