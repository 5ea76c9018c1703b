package org.corelocker.demo.ui

import androidx.compose.foundation.background
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.shape.CircleShape
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.ButtonDefaults
import androidx.compose.material3.Card
import androidx.compose.material3.CardDefaults
import androidx.compose.material3.CircularProgressIndicator
import androidx.compose.material3.Icon
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.ReadOnlyComposable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.clip
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalDensity
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.corelocker.demo.words.LocalStrings
import org.corelocker.demo.words.Notice
import org.corelocker.demo.words.Remedy
import org.corelocker.demo.words.Strings
import org.corelocker.demo.words.Tone

/** Whether letters are so large that little fits side by side. */
val hasLargeLetters: Boolean
    @Composable
    @ReadOnlyComposable
    get() = LocalDensity.current.fontScale > 1.5f

/** The scrolling content of a screen; no wider than reads well on a tablet. */
@Composable
fun ScreenColumn(
    modifier: Modifier = Modifier,
    content: @Composable ColumnScope.() -> Unit,
) {
    Box(modifier.fillMaxWidth(), contentAlignment = Alignment.TopCenter) {
        Column(
            Modifier
                .widthIn(max = 600.dp)
                .verticalScroll(rememberScrollState())
                .padding(PaddingValues(start = 16.dp, end = 16.dp, top = 8.dp, bottom = 24.dp)),
            verticalArrangement = Arrangement.spacedBy(16.dp),
            content = content,
        )
    }
}

/** The state in words, with what helps. TalkBack reads it out when it changes. */
@Composable
fun NoticeCard(
    notice: Notice,
    onRemedy: (Remedy) -> Unit,
    modifier: Modifier = Modifier,
    busy: Boolean = false,
) {
    val strings = LocalStrings.current
    val (paper, ink) = notice.tone.colors
    Surface(modifier.fillMaxWidth(), shape = MaterialTheme.shapes.medium, color = paper, contentColor = ink) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
            Row(
                Modifier.semantics(mergeDescendants = true) { liveRegion = LiveRegionMode.Polite },
                horizontalArrangement = Arrangement.spacedBy(14.dp),
                verticalAlignment = Alignment.CenterVertically,
            ) {
                ToneBadge(notice.tone, ink)
                Column(Modifier.weight(1f), verticalArrangement = Arrangement.spacedBy(2.dp)) {
                    Text(notice.words.title, style = MaterialTheme.typography.titleMedium)
                    Text(notice.words.text, style = MaterialTheme.typography.bodyMedium)
                    notice.code?.let {
                        Text("${strings.codeLabel}: $it", Modifier.padding(top = 4.dp), style = MaterialTheme.typography.labelSmall)
                    }
                }
            }
            notice.remedy?.let { remedy ->
                Button(
                    onClick = { onRemedy(remedy) },
                    enabled = !busy,
                    colors = ButtonDefaults.buttonColors(containerColor = ink, contentColor = paper),
                    modifier = Modifier.align(Alignment.End),
                ) { Text(strings.remedy(remedy)) }
            }
        }
    }
}

private fun Strings.remedy(remedy: Remedy) =
    when (remedy) {
        Remedy.PLANS -> plans
        Remedy.RENEW -> renewNow
        Remedy.RESTORE -> restorePurchases
    }

@Composable
private fun ToneBadge(
    tone: Tone,
    ink: Color,
) {
    Box(Modifier.size(44.dp).clip(CircleShape).background(ink.copy(alpha = 0.12f)), contentAlignment = Alignment.Center) {
        if (tone == Tone.WORKING) {
            CircularProgressIndicator(Modifier.size(24.dp), color = ink, strokeWidth = 3.dp)
        } else {
            Icon(tone.icon, contentDescription = null, tint = ink)
        }
    }
}

private val Tone.icon: ImageVector
    get() =
        when (this) {
            Tone.LOCKED -> Icons.lock
            Tone.WORKING -> Icons.sync
            Tone.UNLOCKED -> Icons.lockOpen
            Tone.OFFLINE -> Icons.cloudOff
            Tone.WARNING -> Icons.warning
            Tone.REFUSED -> Icons.error
        }

/** A quiet card. */
@Composable
fun Panel(
    modifier: Modifier = Modifier,
    content: @Composable ColumnScope.() -> Unit,
) {
    Card(
        modifier.fillMaxWidth(),
        shape = MaterialTheme.shapes.medium,
        colors = CardDefaults.cardColors(containerColor = MaterialTheme.colorScheme.surfaceContainer),
    ) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp), content = content)
    }
}

@Composable
fun Heading(
    text: String,
    modifier: Modifier = Modifier,
) {
    Text(text, modifier.semantics { heading() }, style = MaterialTheme.typography.titleMedium)
}
