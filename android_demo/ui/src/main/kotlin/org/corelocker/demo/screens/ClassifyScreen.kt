package org.corelocker.demo.screens

import androidx.compose.foundation.Image
import androidx.compose.foundation.background
import androidx.compose.foundation.border
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.Spacer
import androidx.compose.foundation.layout.fillMaxHeight
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.height
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.layout.width
import androidx.compose.foundation.lazy.LazyRow
import androidx.compose.foundation.lazy.itemsIndexed
import androidx.compose.foundation.selection.selectable
import androidx.compose.foundation.shape.CircleShape
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.Icon
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.clip
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.FilterQuality
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.layout.ContentScale
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.semantics.clearAndSetSemantics
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.Dp
import androidx.compose.ui.unit.dp
import org.corelocker.demo.model.Prediction
import org.corelocker.demo.ui.Heading
import org.corelocker.demo.ui.Icons
import org.corelocker.demo.ui.Panel
import org.corelocker.demo.ui.ScreenColumn
import org.corelocker.demo.ui.hasLargeLetters
import org.corelocker.demo.words.LocalStrings

private const val SHOWN = 3

/** A picture, what the model takes it for, and the pictures that can be chosen. */
@Composable
fun ClassifyScreen(
    state: ClassifyState,
    onSample: (Int) -> Unit,
    onPickPhoto: () -> Unit,
    notice: @Composable () -> Unit,
) {
    ScreenColumn {
        notice()
        Panel {
            Answer(state)
            Probabilities(state.predictions.take(SHOWN))
        }
        Gallery(state, onSample)
        FilledTonalButton(onClick = onPickPhoto, modifier = Modifier.fillMaxWidth()) {
            Icon(Icons.photo, contentDescription = null)
            Spacer(Modifier.width(8.dp))
            Text(LocalStrings.current.pickPhoto)
        }
    }
}

/** Side by side, or one above the other where letters are large. */
@Composable
private fun Answer(state: ClassifyState) {
    if (hasLargeLetters) {
        Column(verticalArrangement = Arrangement.spacedBy(12.dp)) {
            Pictures(state)
            Verdict(state)
        }
    } else {
        Row(horizontalArrangement = Arrangement.spacedBy(16.dp), verticalAlignment = Alignment.CenterVertically) {
            Pictures(state)
            Verdict(state)
        }
    }
}

/** The subject; a photo with what the model sees of it in the corner. */
@Composable
private fun Pictures(state: ClassifyState) {
    val strings = LocalStrings.current
    val photo = (state.subject as? Subject.Photo)?.bitmap
    Box {
        val shown = photo ?: state.seen ?: return@Box
        val description =
            when (val subject = state.subject) {
                is Subject.OfGallery -> strings.sample(subject.index + 1)
                is Subject.Photo -> strings.yourPhoto
                null -> null
            }
        Picture(shown, 136.dp, RoundedCornerShape(20.dp), description, pixels = photo == null)
        if (photo != null && state.seen != null) {
            val corner = RoundedCornerShape(12.dp)
            Box(
                Modifier
                    .align(Alignment.BottomEnd)
                    .padding(6.dp)
                    .border(2.dp, MaterialTheme.colorScheme.surface, corner),
            ) { Picture(state.seen, 44.dp, corner, strings.whatTheModelSees, pixels = true) }
        }
    }
}

@Composable
private fun Picture(
    bitmap: ImageBitmap,
    size: Dp,
    shape: RoundedCornerShape,
    description: String?,
    pixels: Boolean,
) {
    Image(
        bitmap,
        contentDescription = description,
        modifier = Modifier.size(size).clip(shape),
        contentScale = ContentScale.Crop,
        filterQuality = if (pixels) FilterQuality.None else FilterQuality.Medium,
    )
}

@Composable
private fun Verdict(state: ClassifyState) {
    val strings = LocalStrings.current
    val best = state.predictions.firstOrNull()
    Column(
        Modifier.semantics(mergeDescendants = true) { liveRegion = LiveRegionMode.Polite },
        verticalArrangement = Arrangement.spacedBy(4.dp),
    ) {
        state.failure?.let {
            val words =
                when (it) {
                    Failure.PhotoUnreadable -> strings.photoUnreadable
                    is Failure.ModelFails -> strings.modelFails(it.code)
                }
            Text(words, color = MaterialTheme.colorScheme.error, style = MaterialTheme.typography.bodyMedium)
        }
        if (best == null) return@Column
        Text(strings.itIs, style = MaterialTheme.typography.labelMedium, color = MaterialTheme.colorScheme.onSurfaceVariant)
        Text(strings.classes[best.label], style = MaterialTheme.typography.headlineSmall)
        Text(strings.confidence(strings.percent(best.probability)), style = MaterialTheme.typography.bodyMedium)
        (state.subject as? Subject.OfGallery)?.let { Mark(it.label == best.label) }
        state.tier?.let {
            Text(
                strings.inTier(strings.tierName(it)),
                style = MaterialTheme.typography.labelMedium,
                color = MaterialTheme.colorScheme.onSurfaceVariant,
            )
        }
    }
}

/** Whether the answer is the label of the picture: told by a word and a sign, not by the color alone. */
@Composable
private fun Mark(right: Boolean) {
    val strings = LocalStrings.current
    val scheme = MaterialTheme.colorScheme
    Surface(shape = CircleShape, color = if (right) scheme.tertiaryContainer else scheme.errorContainer) {
        Row(
            Modifier.padding(start = 8.dp, end = 12.dp, top = 4.dp, bottom = 4.dp),
            horizontalArrangement = Arrangement.spacedBy(4.dp),
            verticalAlignment = Alignment.CenterVertically,
        ) {
            Icon(if (right) Icons.check else Icons.close, contentDescription = null, modifier = Modifier.size(16.dp))
            Text(if (right) strings.right else strings.wrong, style = MaterialTheme.typography.labelMedium)
        }
    }
}

@Composable
private fun Probabilities(predictions: List<Prediction>) {
    val strings = LocalStrings.current
    Column(verticalArrangement = Arrangement.spacedBy(10.dp)) {
        predictions.forEachIndexed { place, prediction ->
            val name = strings.classes[prediction.label]
            val share = strings.percent(prediction.probability)
            Column(
                Modifier.clearAndSetSemantics { contentDescription = "$name: $share" },
                verticalArrangement = Arrangement.spacedBy(4.dp),
            ) {
                Row {
                    Text(name, Modifier.weight(1f), style = MaterialTheme.typography.bodyMedium)
                    Text(share, style = MaterialTheme.typography.labelLarge)
                }
                Bar(prediction.probability, if (place == 0) MaterialTheme.colorScheme.primary else MaterialTheme.colorScheme.outline)
            }
        }
    }
}

/** A share from 0 to 1. */
@Composable
internal fun Bar(
    share: Float,
    color: Color,
) {
    Box(
        Modifier
            .fillMaxWidth()
            .height(8.dp)
            .clip(CircleShape)
            .background(MaterialTheme.colorScheme.surfaceContainerHighest),
    ) {
        Box(
            Modifier
                .fillMaxHeight()
                .fillMaxWidth(share.coerceIn(0.012f, 1f))
                .clip(CircleShape)
                .background(color),
        )
    }
}

@Composable
private fun Gallery(
    state: ClassifyState,
    onSample: (Int) -> Unit,
) {
    val strings = LocalStrings.current
    val chosen = (state.subject as? Subject.OfGallery)?.index
    Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Heading(strings.chooseSample)
        LazyRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            itemsIndexed(state.gallery) { index, bitmap ->
                val shape = RoundedCornerShape(16.dp)
                val edge = if (index == chosen) MaterialTheme.colorScheme.primary else MaterialTheme.colorScheme.outlineVariant
                Box(
                    Modifier
                        .clip(shape)
                        .selectable(index == chosen, role = Role.RadioButton) { onSample(index) }
                        .border(if (index == chosen) 3.dp else 1.dp, edge, shape),
                ) { Picture(bitmap, 64.dp, shape, strings.sample(index + 1), pixels = true) }
            }
        }
    }
}
