package org.corelocker.demo

import androidx.compose.runtime.Composable
import androidx.compose.ui.ImageComposeScene
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.text.platform.Font
import androidx.compose.ui.unit.Density
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.demo.screens.AccessActions
import org.corelocker.demo.screens.AccessScreen
import org.corelocker.demo.screens.AccessState
import org.corelocker.demo.screens.ClassifyScreen
import org.corelocker.demo.screens.ClassifyState
import org.corelocker.demo.screens.CompareScreen
import org.corelocker.demo.screens.CompareState
import org.corelocker.demo.screens.ConfirmRemoval
import org.corelocker.demo.screens.DemoScaffold
import org.corelocker.demo.screens.Failure
import org.corelocker.demo.screens.Offers
import org.corelocker.demo.screens.PlansScreen
import org.corelocker.demo.screens.Progress
import org.corelocker.demo.screens.StartScreen
import org.corelocker.demo.screens.StateNotice
import org.corelocker.demo.screens.Tab
import org.corelocker.demo.screens.words
import org.corelocker.demo.ui.DemoTheme
import org.corelocker.demo.words.English
import org.corelocker.demo.words.German
import org.corelocker.demo.words.Strings
import org.jetbrains.skia.Image
import java.io.File

/** How a picture is taken. Sizes are in dp. */
internal data class Look(
    val name: String,
    val dark: Boolean = false,
    val fontScale: Float = 1f,
    val strings: Strings = English,
) {
    companion object {
        val light = Look("light")
        val all = listOf(light, Look("dark", dark = true), Look("large", fontScale = 2f))
        val german = Look("german", strings = German)
    }
}

/** A screen of the app, to be drawn without a phone. */
internal class Picture(
    val name: String,
    val look: Look,
    private val height: Int,
    private val content: @Composable () -> Unit,
) {
    /** Whether something in it never comes to rest. */
    val turns = listOf("unlocking", "waiting", "loading", "opening").any { "-$it-" in name }

    /** @param density pixels for each dp. */
    fun draw(
        density: Float,
        height: Int = if (look.fontScale > 1) 2 * this.height else this.height,
    ): Image {
        val (width, tall) = (WIDTH * density).toInt() to (height * density).toInt()
        val scene =
            ImageComposeScene(width, tall, Density(density, look.fontScale)) {
                DemoTheme(look.strings, look.dark, roboto, content)
            }
        try {
            // Effects and animations settle.
            repeat(5) { scene.render(it * 100_000_000L) }
            return scene.render(1_000_000_000L)
        } finally {
            scene.close()
        }
    }

    companion object {
        const val WIDTH = 360

        /** Android's own font, so that texts break where they do on a phone. */
        private val roboto by lazy {
            val folder = File(System.getProperty("demo.fonts"))
            FontFamily(
                Font(File(folder, "Roboto-Regular.ttf"), FontWeight.Normal),
                Font(File(folder, "Roboto-Medium.ttf"), FontWeight.Medium),
                Font(File(folder, "Roboto-Bold.ttf"), FontWeight.Bold),
            )
        }
    }
}

/** Every screen in every state and look. */
internal fun pictures(): List<Picture> =
    Look.all.flatMap { look -> Examples.locks.flatMap { (name, lock) -> screens(name, lock, look) } + others(look) + above(look) } +
        listOf("locked", "offline").flatMap { screens(it, Examples.locks.getValue(it), Look.german) } + above(Look.german)

private fun screens(
    name: String,
    lock: LockState,
    look: Look,
): List<Picture> =
    listOf(
        classify(name, lock, Examples.classify(lock), look),
        compare(name, lock, Examples.compare(lock), look),
        Picture("access-$name-${look.name}", look, 800) { Access(Examples.access(lock)) },
        Picture("plans-$name-${look.name}", look, 800) { Plans(Examples.access(lock, look.strings)) },
    )

/** What a screen shows beside the states of the lock. */
private fun others(look: Look): List<Picture> {
    val (locked, unlocked) = Examples.locks.getValue("locked") to Examples.locks.getValue("unlocked")
    return listOf(
        classify("photo", unlocked, Examples.photo(), look),
        classify("asked", locked, Examples.classify(locked).copy(predictions = emptyList(), tier = null), look),
        classify("failure", locked, Examples.failure(locked), look),
        classify("unreadable", unlocked, Examples.classify(unlocked).copy(failure = Failure.PhotoUnreadable), look),
        compare("start", locked, CompareState(), look),
        compare("running", unlocked, Examples.compare(locked).copy(progress = Progress("plus", 120, 200)), look),
        compare("failure", unlocked, Examples.compare(locked).copy(failure = "memory"), look),
        Picture("plans-busy-${look.name}", look, 800) { Plans(Examples.access(locked).copy(busy = true)) },
        Picture("plans-loading-${look.name}", look, 800) { Plans(Examples.access(locked).copy(offers = Offers.Loading)) },
        Picture("plans-closed-${look.name}", look, 800) { Plans(Examples.access(locked).copy(offers = Offers.Unavailable)) },
    )
}

/** Before the app is open, and what stands above a screen. */
private fun above(look: Look): List<Picture> {
    val unlocked = Examples.access(Examples.locks.getValue("unlocked"))
    return listOf(
        Picture("start-opening-${look.name}", look, 400) { StartScreen(failure = null) },
        Picture("start-failure-${look.name}", look, 400) { StartScreen(ErrorCode.APP_CONFIG.word) },
        Picture("access-removal-${look.name}", look, 800) {
            Access(unlocked)
            ConfirmRemoval(onDismiss = {}, onConfirm = {})
        },
    ) +
        Examples.messages.map { (name, message) ->
            Picture("message-$name-${look.name}", look, 800) {
                DemoScaffold(Tab.ACCESS, {}, words(message)) { AccessScreen(unlocked, AccessActions()) { StateNotice(unlocked) } }
            }
        }
}

private fun classify(
    name: String,
    lock: LockState,
    state: ClassifyState,
    look: Look,
) = Picture("classify-$name-${look.name}", look, 760) {
    TabFrame(Tab.CLASSIFY) { ClassifyScreen(state, {}, {}) { Notice(lock) } }
}

private fun compare(
    name: String,
    lock: LockState,
    state: CompareState,
    look: Look,
) = Picture("compare-$name-${look.name}", look, 920) {
    TabFrame(Tab.COMPARE) { CompareScreen(state, Examples.access(lock).place > 0, {}, {}) { Notice(lock) } }
}

@Composable
private fun TabFrame(
    tab: Tab?,
    content: @Composable () -> Unit,
) = DemoScaffold(tab, {}, content = content)

@Composable
private fun Notice(lock: LockState) = StateNotice(Examples.access(lock), AccessActions())

@Composable
private fun Access(state: AccessState) = TabFrame(Tab.ACCESS) { AccessScreen(state, AccessActions()) { StateNotice(state) } }

@Composable
private fun Plans(state: AccessState) = TabFrame(null) { PlansScreen(state, {}, {}, {}, {}) { StateNotice(state) } }
