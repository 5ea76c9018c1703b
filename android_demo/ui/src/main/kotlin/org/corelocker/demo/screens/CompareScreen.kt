package org.corelocker.demo.screens

import androidx.compose.foundation.background
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.RowScope
import androidx.compose.foundation.layout.fillMaxHeight
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.height
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.material3.Button
import androidx.compose.material3.Icon
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.clip
import androidx.compose.ui.draw.drawBehind
import androidx.compose.ui.geometry.Offset
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.PathEffect
import androidx.compose.ui.semantics.clearAndSetSemantics
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.text.style.TextAlign
import androidx.compose.ui.unit.dp
import org.corelocker.demo.model.Measured
import org.corelocker.demo.ui.Heading
import org.corelocker.demo.ui.Icons
import org.corelocker.demo.ui.Panel
import org.corelocker.demo.ui.ScreenColumn
import org.corelocker.demo.ui.hasLargeLetters
import org.corelocker.demo.words.LocalStrings

/** Locked and unlocked, side by side: how often each is right, and how fast. */
@Composable
fun CompareScreen(
    state: CompareState,
    canCompare: Boolean,
    onMeasure: () -> Unit,
    onStop: () -> Unit,
    notice: @Composable () -> Unit,
) {
    val strings = LocalStrings.current
    ScreenColumn {
        notice()
        if (state.measured.isEmpty()) Introduction()
        state.failure?.let { Text(strings.modelFails(it), color = MaterialTheme.colorScheme.error) }
        if (state.measured.isNotEmpty()) {
            AccuracyChart(state.measured)
            TimeChart(strings.latency, state.measured, Measured::imageNanos)
            TimeChart(strings.loading, state.measured, Measured::loadNanos)
            Text(strings.measuredOn(state.measured.first().total), style = MaterialTheme.typography.bodySmall)
        }
        if (!canCompare && state.progress == null) {
            Text(strings.unlockToCompare, style = MaterialTheme.typography.bodyMedium)
        }
        val progress = state.progress
        if (progress == null) {
            Button(onClick = onMeasure, modifier = Modifier.fillMaxWidth()) {
                Text(if (state.measured.isEmpty()) strings.measure else strings.measureAgain)
            }
        } else {
            Running(progress, onStop)
        }
    }
}

@Composable
private fun Introduction() {
    val strings = LocalStrings.current
    Panel {
        Icon(Icons.chart, contentDescription = null, modifier = Modifier.size(40.dp), tint = MaterialTheme.colorScheme.primary)
        Heading(strings.compareTitle)
        Text(strings.notMeasured, style = MaterialTheme.typography.bodyMedium)
    }
}

@Composable
private fun Running(
    progress: Progress,
    onStop: () -> Unit,
) {
    val strings = LocalStrings.current
    Panel {
        Text(strings.measuring(strings.tierName(progress.tier), progress.done, progress.total))
        LinearProgressIndicator(progress = { progress.done.toFloat() / progress.total }, modifier = Modifier.fillMaxWidth())
        OutlinedButton(onClick = onStop, modifier = Modifier.align(Alignment.End)) { Text(strings.stop) }
    }
}

private const val GUESS = 0.1f

/** The locked tier is gray, all of the model has the color of what is unlocked. */
@Composable
private fun colorOf(
    place: Int,
    count: Int,
): Color =
    when {
        place == 0 -> MaterialTheme.colorScheme.outline
        place == count - 1 -> MaterialTheme.colorScheme.tertiary
        else -> MaterialTheme.colorScheme.primary
    }

/** One column for each tier, over a dashed line at what a blind guess would get. */
@Composable
private fun AccuracyChart(rows: List<Measured>) {
    val strings = LocalStrings.current
    val line = MaterialTheme.colorScheme.outline
    Panel {
        Heading(strings.accuracy)
        Row(
            Modifier
                .fillMaxWidth()
                .height(168.dp)
                .drawBehind {
                    val y = size.height * (1 - GUESS)
                    val dashes = PathEffect.dashPathEffect(floatArrayOf(4.dp.toPx(), 4.dp.toPx()))
                    drawLine(line, Offset(0f, y), Offset(size.width, y), 1.dp.toPx(), pathEffect = dashes)
                },
            horizontalArrangement = Arrangement.SpaceEvenly,
        ) {
            rows.forEachIndexed { place, row -> AccuracyColumn(row, colorOf(place, rows.size)) }
        }
        Row(Modifier.fillMaxWidth(), horizontalArrangement = Arrangement.SpaceEvenly) {
            for (row in rows) {
                Text(
                    strings.tierName(row.tier),
                    Modifier.clearAndSetSemantics {}.weight(1f),
                    textAlign = TextAlign.Center,
                    style = MaterialTheme.typography.labelLarge,
                )
            }
        }
        Text(
            "- - -  ${strings.guess}: ${strings.percent(GUESS)}",
            style = MaterialTheme.typography.bodySmall,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }
}

@Composable
private fun RowScope.AccuracyColumn(
    row: Measured,
    color: Color,
) {
    val strings = LocalStrings.current
    val words = "${strings.tierName(row.tier)}: ${strings.percent(row.accuracy, 1)}, ${strings.correctOf(row.correct, row.total)}"
    Column(
        Modifier.weight(1f).fillMaxHeight().clearAndSetSemantics { contentDescription = words },
        verticalArrangement = Arrangement.Bottom,
        horizontalAlignment = Alignment.CenterHorizontally,
    ) {
        Box(Modifier.weight(1f), contentAlignment = Alignment.BottomCenter) {
            Column(horizontalAlignment = Alignment.CenterHorizontally) {
                Text(
                    strings.percent(row.accuracy, if (hasLargeLetters) 0 else 1),
                    style = MaterialTheme.typography.titleMedium,
                    softWrap = false,
                )
                Box(
                    Modifier
                        .padding(top = 4.dp)
                        .widthIn(max = 72.dp)
                        .fillMaxWidth(0.7f)
                        .height(COLUMN * row.accuracy.coerceAtLeast(0.02f))
                        .clip(RoundedCornerShape(topStart = 12.dp, topEnd = 12.dp))
                        .background(color),
                )
            }
        }
    }
}

private val COLUMN = 136.dp

/** Bars as long as the time; the locked model is as fast as the unlocked one. */
@Composable
private fun TimeChart(
    title: String,
    rows: List<Measured>,
    nanos: (Measured) -> Long,
) {
    val strings = LocalStrings.current
    val most = rows.maxOf(nanos).coerceAtLeast(1)
    Panel {
        Heading(title)
        rows.forEachIndexed { place, row ->
            val (name, time) = strings.tierName(row.tier) to strings.milliseconds(nanos(row))
            Column(
                Modifier.clearAndSetSemantics { contentDescription = "$name: $time" },
                verticalArrangement = Arrangement.spacedBy(4.dp),
            ) {
                Row {
                    Text(name, Modifier.weight(1f), style = MaterialTheme.typography.bodyMedium)
                    Text(time, style = MaterialTheme.typography.labelLarge)
                }
                Bar(nanos(row).toFloat() / most, colorOf(place, rows.size))
            }
        }
    }
}
