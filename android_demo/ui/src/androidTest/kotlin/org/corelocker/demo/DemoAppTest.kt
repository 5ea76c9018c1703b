package org.corelocker.demo

import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.ui.graphics.Canvas
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.Paint
import androidx.compose.ui.platform.LocalDensity
import androidx.compose.ui.semantics.SemanticsActions
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.SemanticsMatcher
import androidx.compose.ui.test.SemanticsNodeInteraction
import androidx.compose.ui.test.assertCountEquals
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsSelected
import androidx.compose.ui.test.hasClickAction
import androidx.compose.ui.test.hasText
import androidx.compose.ui.test.junit4.createComposeRule
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onFirst
import androidx.compose.ui.test.onLast
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.unit.Density
import androidx.compose.ui.unit.dp
import androidx.lifecycle.Lifecycle
import androidx.lifecycle.LifecycleOwner
import androidx.lifecycle.LifecycleRegistry
import androidx.lifecycle.compose.LocalLifecycleOwner
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.demo.model.Refusal
import org.corelocker.demo.screens.AccessViewModel
import org.corelocker.demo.screens.ClassifyViewModel
import org.corelocker.demo.screens.CompareViewModel
import org.corelocker.demo.screens.DemoApp
import org.corelocker.demo.screens.DemoModels
import org.corelocker.demo.ui.DemoTheme
import org.corelocker.demo.words.English
import org.corelocker.demo.words.German
import org.corelocker.demo.words.Strings
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

/** The whole app as a customer uses it, over a model and a shop that are fakes. Runs on a phone, and on the desktop. */
class DemoAppTest {
    @get:Rule
    val rule = createComposeRule()

    private val journal = Journal()
    private val app = FakeApp(journal)
    private val shop = FakeShop(journal)
    private var photosAsked = 0
    private var back: (() -> Unit)? = null
    private lateinit var models: DemoModels

    private fun start(
        strings: Strings = English,
        fontScale: Float = 1f,
    ) {
        val samples = fakeSamples()
        models = DemoModels(ClassifyViewModel(app, samples), CompareViewModel(app, samples), AccessViewModel(app, shop))
        val owner = ResumedOwner()
        rule.setContent {
            val density = Density(LocalDensity.current.density, fontScale)
            CompositionLocalProvider(LocalLifecycleOwner provides owner, LocalDensity provides density) {
                DemoTheme(strings) {
                    DemoApp(models, onPickPhoto = { photosAsked++ }, backHandler = { enabled, onBack -> back = onBack.takeIf { enabled } })
                }
            }
        }
        waitFor {
            models.classify.state.value.predictions
                .isNotEmpty()
        }
    }

    private fun waitFor(condition: () -> Boolean) = rule.waitUntil(10_000) { condition() }

    private fun click(text: String) =
        rule
            .onAllNodes(hasText(text) and hasClickAction())
            .onLast()
            .performScrollIfPossible()
            .performClick()

    private fun SemanticsNodeInteraction.performScrollIfPossible() =
        try {
            performScrollTo()
        } catch (_: AssertionError) {
            this // it does not scroll: a bar, a dialog
        }

    @Test
    fun aPlanTurnsWrongAnswersIntoRightOnes() {
        start()
        rule.onNodeWithText("Locked").assertIsDisplayed()
        rule.onNodeWithContentDescription("Test picture 4").performScrollTo().performClick()
        waitFor {
            models.classify.state.value.predictions
                .isNotEmpty()
        }
        rule.onNodeWithText("Wrong").assertExists()
        click("See plans")
        waitFor { rule.onAllNodesWithText("€4.99").fetchSemanticsNodes().isNotEmpty() }
        click("Plus")
        click("Unlock Plus for €1.99")
        waitFor { app.state.value == LockState.Unlocked("plus", null) }
        rule.onNodeWithText("Plus · unlocked").assertIsDisplayed()
        rule.onNodeWithText("Unlocked. Thank you!").assertIsDisplayed()
        click("OK")
        click("Access")
        click("See plans")
        waitFor { rule.onAllNodesWithText("€4.99").fetchSemanticsNodes().isNotEmpty() }
        rule.onAllNodesWithText("€1.99").assertCountEquals(0)
        click("Unlock Full for €4.99")
        waitFor { app.state.value == LockState.Unlocked("full", null) }
        click("Classify")
        waitFor {
            models.classify.state.value.tier == "full" &&
                models.classify.state.value.predictions
                    .isNotEmpty()
        }
        rule.onNodeWithText("Right").assertExists()
        val served = listOf("plus", "full").flatMap { listOf("buy $it", "unlock $it", "acknowledge $it") }
        assertEquals(served, journal.lines)
    }

    @Test
    fun showsTheLicenseAndRemovesIt() {
        app.state.value = LockState.Unlocked("full", null)
        start()
        click("Access")
        rule.onNodeWithText("Device key", substring = true).assertExists()
        click("Remove from this phone")
        rule.onNodeWithText("Remove the license?").assertIsDisplayed()
        click("Cancel")
        assertTrue(app.state.value is LockState.Unlocked)
        click("Remove from this phone")
        click("Remove")
        waitFor { app.state.value == LockState.Locked }
        rule.onNodeWithText("This phone holds no license.").assertExists()
    }

    @Test
    fun comparesWhatIsOpen() {
        app.state.value = LockState.Unlocked("full", null)
        start()
        click("Compare")
        click("Measure on this phone")
        waitFor {
            models.compare.state.value
                .run { measured.size == 3 && progress == null }
        }
        rule.onNodeWithContentDescription("Free: 10.0\u00a0%, 1 of 10 right").assertExists()
        rule.onNodeWithContentDescription("Full: 100.0\u00a0%, 10 of 10 right").assertExists()
    }

    @Test
    fun saysWhyAPurchaseIsRefusedAndTheWayOut() {
        start()
        shop.orders += FakeShop.order("full")
        app.refusal = Refusal(ErrorCode.DEVICE_LIMIT)
        click("Access")
        click("Restore purchases")
        waitFor { rule.onAllNodesWithText("Too many phones").fetchSemanticsNodes().isNotEmpty() }
        rule.onNodeWithText("Code: device-limit").assertExists()
        app.refusal = null
        click("Restore purchases")
        waitFor { app.state.value == LockState.Unlocked("full", null) }
    }

    @Test
    fun classifiesAPhoto() {
        start()
        click("Pick a photo")
        assertEquals(1, photosAsked)
        rule.runOnIdle { models.classify.choosePhoto(square()) }
        waitFor { rule.onAllNodes(hasDescription("Your photo")).fetchSemanticsNodes().isNotEmpty() }
        rule.onNodeWithContentDescription("What the model sees").assertExists()
        rule.runOnIdle { models.classify.choosePhoto(null) }
        waitFor { rule.onAllNodesWithText("This photo cannot be read. Pick another one.").fetchSemanticsNodes().isNotEmpty() }
    }

    @Test
    fun talkBackHasWordsForAllThatCanBePressed() {
        start()
        for (place in listOf("Classify", "Compare", "Access")) {
            click(place)
            requireLabels()
        }
        click("See plans")
        waitFor { rule.onAllNodesWithText("€4.99").fetchSemanticsNodes().isNotEmpty() }
        requireLabels()
        rule.onNodeWithText("Full").assertIsSelected()
        rule.onNodeWithContentDescription("Close").performClick()
        rule.onNodeWithText("This phone holds no license.").assertExists()
    }

    /** Words, and room for a finger. */
    private fun requireLabels() {
        val nodes = rule.onAllNodes(hasClickAction()).fetchSemanticsNodes()
        assertTrue(nodes.size > 2)
        for (node in nodes) {
            val words =
                node.config.getOrElse(SemanticsProperties.Text) { emptyList() }.map { it.text } +
                    node.config.getOrElse(SemanticsProperties.ContentDescription) { emptyList() }
            assertTrue("$node", words.any(String::isNotBlank))
            with(rule.density) { assertTrue("$words: ${node.touchBoundsInRoot}", node.touchBoundsInRoot.height >= 47.dp.toPx()) }
        }
        assertTrue(rule.onAllNodes(SemanticsMatcher.keyIsDefined(SemanticsProperties.Heading)).fetchSemanticsNodes().isNotEmpty())
    }

    @Test
    fun withTheLargestLettersEverythingCanBeReached() {
        start(fontScale = 2f)
        click("See plans")
        waitFor { rule.onAllNodesWithText("€4.99").fetchSemanticsNodes().isNotEmpty() }
        rule.onNodeWithText("Pictures never leave the phone").performScrollTo().assertIsDisplayed()
        rule
            .onNodeWithText("Unlock Full for €4.99")
            .performScrollTo()
            .assertIsDisplayed()
            .performClick()
        waitFor { app.state.value == LockState.Unlocked("full", null) }
    }

    @Test
    fun speaksGerman() {
        start(German)
        rule.onNodeWithText("Gesperrt").assertIsDisplayed()
        rule.onNodeWithText("Vergleich").performClick()
        rule.onNodeWithText("Auf diesem Telefon messen").assertExists()
    }

    @Test
    fun backClosesThePlans() {
        start()
        assertEquals(null, back)
        click("See plans")
        rule.onNodeWithText("Unlock the model").assertIsDisplayed()
        rule.runOnIdle { checkNotNull(back)() }
        rule.onNodeWithText("Test pictures").assertExists()
        rule.runOnIdle { assertEquals(null, back) }
    }

    private fun hasDescription(text: String) = SemanticsMatcher.expectValue(SemanticsProperties.ContentDescription, listOf(text))

    private fun square(): ImageBitmap {
        val bitmap = ImageBitmap(100, 80)
        val canvas = Canvas(bitmap)
        canvas.drawRect(0f, 0f, 100f, 80f, Paint().apply { color = Color.White })
        canvas.drawRect(40f, 20f, 60f, 60f, Paint().apply { color = Color.Black })
        return bitmap
    }
}

/** On a phone the activity provides this; the desktop's test rule does not. */
class ResumedOwner : LifecycleOwner {
    override val lifecycle = LifecycleRegistry.createUnsafe(this).apply { currentState = Lifecycle.State.RESUMED }
}
