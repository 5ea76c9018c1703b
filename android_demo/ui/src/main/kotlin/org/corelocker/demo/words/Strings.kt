package org.corelocker.demo.words

import androidx.compose.runtime.staticCompositionLocalOf
import org.corelocker.core.ErrorCode
import java.time.Instant
import java.time.ZoneId
import java.time.format.DateTimeFormatter
import java.time.format.FormatStyle
import java.util.Locale

/**
 * Every text of the app in one language. Typed, so that a language that lacks a text does not compile; in Kotlin, so that the
 * same table serves Android and the tests that render the screens on the desktop.
 */
interface Strings {
    val locale: Locale

    val classify: String
    val compare: String
    val access: String
    val plans: String
    val close: String
    val dismiss: String

    /** The ten classes of Fashion-MNIST, in its order. */
    val classes: List<String>

    // Classify
    val chooseSample: String
    val pickPhoto: String
    val yourPhoto: String
    val whatTheModelSees: String
    val itIs: String
    val right: String
    val wrong: String
    val photoUnreadable: String

    fun sample(number: Int): String

    fun inTier(tier: String): String

    fun confidence(percent: String): String

    fun modelFails(code: String): String

    // Compare
    val compareTitle: String
    val accuracy: String
    val latency: String
    val loading: String
    val measure: String
    val measureAgain: String
    val stop: String
    val notMeasured: String
    val guess: String
    val unlockToCompare: String

    fun measuring(
        tier: String,
        done: Int,
        total: Int,
    ): String

    fun measuredOn(total: Int): String

    fun correctOf(
        correct: Int,
        total: Int,
    ): String

    // Plans
    val plansTitle: String
    val plansText: String
    val current: String
    val devices: String
    val privacy: String
    val offline: String
    val restorePurchases: String
    val shopUnavailable: String
    val tryAgain: String
    val loadingPlans: String

    fun tierName(tier: String): String

    fun tierText(tier: String): String

    fun buy(
        tier: String,
        price: String,
    ): String

    // License
    val license: String
    val noLicense: String
    val tier: String
    val issued: String
    val ends: String
    val never: String
    val renewsAfter: String
    val licenseId: String
    val deviceKey: String
    val modelVersion: String
    val app: String
    val environment: String
    val development: String
    val production: String
    val renewNow: String
    val remove: String
    val removeTitle: String
    val removeNow: String
    val removeText: String
    val cancel: String

    // What happened
    val nothingToRestore: String
    val removed: String
    val renewed: String
    val unlocked: String
    val acknowledgeLater: String

    // States
    val stateLocked: Words
    val stateUnlocking: Words
    val stateUnlocked: String
    val stateUnlockedForGood: String
    val stateExpired: Words
    val statePending: Words
    val codeLabel: String

    fun stateWaiting(
        cause: Trouble?,
        attempt: Int,
        time: String,
    ): Words

    fun stateUnlockedUntil(date: String): String

    fun stateOffline(
        tier: String,
        date: String,
    ): Words

    fun revoked(code: ErrorCode): Words

    fun trouble(trouble: Trouble): Words

    fun placeFreeAt(date: String): String

    fun date(instant: Instant): String =
        DateTimeFormatter
            .ofLocalizedDateTime(FormatStyle.MEDIUM, FormatStyle.SHORT)
            .withLocale(locale)
            .format(instant.atZone(ZoneId.systemDefault()))

    fun time(instant: Instant): String =
        DateTimeFormatter
            .ofLocalizedTime(FormatStyle.MEDIUM)
            .withLocale(locale)
            .format(instant.atZone(ZoneId.systemDefault()))

    /** A share from 0 to 1. */
    fun percent(
        share: Float,
        digits: Int = 0,
    ): String = String.format(locale, "%.${digits}f\u00a0%%", 100 * share)

    fun milliseconds(nanos: Long): String = String.format(locale, "%.2f\u00a0ms", nanos / 1e6)

    companion object {
        /** German for German phones, English for all others. */
        fun of(locale: Locale): Strings = if (locale.language == "de") German else English
    }
}

/** What is the matter, and what to do. */
data class Words(
    val title: String,
    val text: String,
)

val LocalStrings = staticCompositionLocalOf<Strings> { English }
