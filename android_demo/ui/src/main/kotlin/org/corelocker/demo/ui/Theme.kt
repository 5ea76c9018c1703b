package org.corelocker.demo.ui

import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Shapes
import androidx.compose.material3.Typography
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.runtime.ReadOnlyComposable
import androidx.compose.runtime.staticCompositionLocalOf
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.unit.dp
import org.corelocker.demo.words.LocalStrings
import org.corelocker.demo.words.Strings
import org.corelocker.demo.words.Tone

private val LIGHT =
    lightColorScheme(
        primary = Color(0xFF4A4FB0),
        onPrimary = Color.White,
        primaryContainer = Color(0xFFE1E0FF),
        onPrimaryContainer = Color(0xFF14146B),
        secondary = Color(0xFF5C5D72),
        onSecondary = Color.White,
        secondaryContainer = Color(0xFFE4E2F7),
        onSecondaryContainer = Color(0xFF191A2C),
        tertiary = Color(0xFF006B5F),
        onTertiary = Color.White,
        tertiaryContainer = Color(0xFFB4F1E4),
        onTertiaryContainer = Color(0xFF00201C),
        error = Color(0xFFBA1A1A),
        errorContainer = Color(0xFFFFDAD6),
        onErrorContainer = Color(0xFF410002),
        background = Color(0xFFFBF8FF),
        onBackground = Color(0xFF1B1B21),
        surface = Color(0xFFFBF8FF),
        onSurface = Color(0xFF1B1B21),
        surfaceVariant = Color(0xFFE4E1EC),
        onSurfaceVariant = Color(0xFF46464F),
        surfaceContainerLowest = Color.White,
        surfaceContainerLow = Color(0xFFF5F2FB),
        surfaceContainer = Color(0xFFF0EDF6),
        surfaceContainerHigh = Color(0xFFEAE7F0),
        surfaceContainerHighest = Color(0xFFE4E1EA),
        outline = Color(0xFF777680),
        outlineVariant = Color(0xFFC7C5D0),
    )

private val DARK =
    darkColorScheme(
        primary = Color(0xFFBFC2FF),
        onPrimary = Color(0xFF191E80),
        primaryContainer = Color(0xFF323797),
        onPrimaryContainer = Color(0xFFE1E0FF),
        secondary = Color(0xFFC5C4DD),
        onSecondary = Color(0xFF2E2F42),
        secondaryContainer = Color(0xFF3B3C50),
        onSecondaryContainer = Color(0xFFE4E2F7),
        tertiary = Color(0xFF82D5C6),
        onTertiary = Color(0xFF003730),
        tertiaryContainer = Color(0xFF00504A),
        onTertiaryContainer = Color(0xFFB4F1E4),
        error = Color(0xFFFFB4AB),
        errorContainer = Color(0xFF73150F),
        onErrorContainer = Color(0xFFFFDAD6),
        background = Color(0xFF131318),
        onBackground = Color(0xFFE4E1E9),
        surface = Color(0xFF131318),
        onSurface = Color(0xFFE4E1E9),
        surfaceVariant = Color(0xFF46464F),
        onSurfaceVariant = Color(0xFFC7C5D0),
        surfaceContainerLowest = Color(0xFF0E0E13),
        surfaceContainerLow = Color(0xFF1B1B21),
        surfaceContainer = Color(0xFF1F1F25),
        surfaceContainerHigh = Color(0xFF2A292F),
        surfaceContainerHighest = Color(0xFF35343A),
        outline = Color(0xFF918F9A),
        outlineVariant = Color(0xFF46464F),
    )

/** A background, and what is written on it. */
data class Ink(
    val paper: Color,
    val ink: Color,
)

private val LIGHT_AMBER = Ink(Color(0xFFFFE3B3), Color(0xFF2A1A00))
private val DARK_AMBER = Ink(Color(0xFF5C4100), Color(0xFFFFE3B3))
private val LocalAmber = staticCompositionLocalOf { LIGHT_AMBER }

/** The colors of a notice. */
val Tone.colors: Ink
    @Composable
    @ReadOnlyComposable
    get() {
        val scheme = MaterialTheme.colorScheme
        return when (this) {
            Tone.LOCKED -> Ink(scheme.secondaryContainer, scheme.onSecondaryContainer)
            Tone.WORKING -> Ink(scheme.primaryContainer, scheme.onPrimaryContainer)
            Tone.UNLOCKED -> Ink(scheme.tertiaryContainer, scheme.onTertiaryContainer)
            Tone.OFFLINE, Tone.WARNING -> LocalAmber.current
            Tone.REFUSED -> Ink(scheme.errorContainer, scheme.onErrorContainer)
        }
    }

/**
 * Colors, type and shapes of the app.
 *
 * @param fontFamily the platform's by default.
 */
@Composable
fun DemoTheme(
    strings: Strings,
    dark: Boolean = isSystemInDarkTheme(),
    fontFamily: FontFamily = FontFamily.Default,
    content: @Composable () -> Unit,
) {
    CompositionLocalProvider(LocalStrings provides strings, LocalAmber provides if (dark) DARK_AMBER else LIGHT_AMBER) {
        MaterialTheme(
            colorScheme = if (dark) DARK else LIGHT,
            typography = typography(fontFamily),
            shapes = Shapes(medium = RoundedCornerShape(20.dp), large = RoundedCornerShape(28.dp)),
            content = content,
        )
    }
}

private fun typography(family: FontFamily): Typography =
    with(Typography()) {
        Typography(
            headlineLarge = headlineLarge.copy(fontFamily = family, fontWeight = FontWeight.Bold),
            headlineMedium = headlineMedium.copy(fontFamily = family, fontWeight = FontWeight.Bold),
            headlineSmall = headlineSmall.copy(fontFamily = family, fontWeight = FontWeight.Bold),
            titleLarge = titleLarge.copy(fontFamily = family, fontWeight = FontWeight.Bold),
            titleMedium = titleMedium.copy(fontFamily = family, fontWeight = FontWeight.Bold),
            titleSmall = titleSmall.copy(fontFamily = family),
            bodyLarge = bodyLarge.copy(fontFamily = family),
            bodyMedium = bodyMedium.copy(fontFamily = family),
            bodySmall = bodySmall.copy(fontFamily = family),
            labelLarge = labelLarge.copy(fontFamily = family),
            labelMedium = labelMedium.copy(fontFamily = family),
            labelSmall = labelSmall.copy(fontFamily = family),
        )
    }
