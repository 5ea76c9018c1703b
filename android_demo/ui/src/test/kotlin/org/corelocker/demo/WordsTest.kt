package org.corelocker.demo

import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.demo.words.English
import org.corelocker.demo.words.German
import org.corelocker.demo.words.Remedy
import org.corelocker.demo.words.Strings
import org.corelocker.demo.words.Tone
import org.corelocker.demo.words.Trouble
import org.corelocker.demo.words.Words
import org.corelocker.demo.words.notice
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.time.Instant
import java.util.Locale

class WordsTest {
    private val languages = listOf(English, German)
    private val until = Instant.parse("2026-12-30T10:42:00Z")

    @Test
    fun `every state has words, and what is refused a code`() {
        val codes = ErrorCode.entries
        val states =
            listOf(LockState.Locked, LockState.Expired, LockState.Unlocking(1), LockState.Unlocked("full", until)) +
                listOf(LockState.Unlocked("plus", null), LockState.OfflineUntil("full", until)) +
                codes.map { LockState.Unlocking(2, until, it) } + codes.map(LockState::Refused) + codes.map(LockState::Revoked)
        for (strings in languages) {
            for (state in states) {
                val notice = strings.notice(state)
                assertTrue("$state", notice.words.title.isNotBlank() && notice.words.text.isNotBlank())
                val code = (state as? LockState.Refused)?.code ?: (state as? LockState.Revoked)?.code
                assertEquals(code?.word, notice.code)
            }
        }
    }

    @Test
    fun `customers are told to reinstall the app only for what a new one can mend`() {
        val others = ErrorCode.entries.filter { it.word.startsWith("license") || it.word.startsWith("purchase") || it.retryable }
        assertEquals(emptyList<ErrorCode>(), others.filter { Trouble.of(it) == Trouble.APP })
        assertEquals(Trouble.NO_CONNECTION, Trouble.of(ErrorCode.SERVICE_UNREACHABLE))
        assertEquals(Trouble.BUSY, Trouble.of(ErrorCode.SERVICE_BUSY))
        assertEquals(Trouble.CLOCK, Trouble.of(ErrorCode.LICENSE_CLOCK))
        assertEquals(Trouble.LICENSE, Trouble.of(ErrorCode.LICENSE_DEVICE))
        assertEquals(Trouble.PURCHASE_REFUSED, Trouble.of(ErrorCode.PURCHASE_SIGNATURE))
        assertEquals(Trouble.APP, Trouble.of(ErrorCode.BUNDLE_SIGNATURE))
        assertEquals(Trouble.entries.toSet(), ErrorCode.entries.map(Trouble::of).toSet())
    }

    @Test
    fun `offers what helps`() {
        fun remedy(state: LockState) = English.notice(state).remedy
        assertEquals(Remedy.PLANS, remedy(LockState.Locked))
        assertEquals(Remedy.RENEW, remedy(LockState.Expired))
        assertEquals(Remedy.RENEW, remedy(LockState.OfflineUntil("full", until)))
        assertEquals(Remedy.PLANS, remedy(LockState.Revoked(ErrorCode.PURCHASE_REVOKED)))
        assertEquals(Remedy.RESTORE, remedy(LockState.Revoked(ErrorCode.DEVICE_INACTIVE)))
        assertEquals(Remedy.RESTORE, remedy(LockState.Refused(ErrorCode.SERVICE_UNREACHABLE)))
        assertEquals(null, remedy(LockState.Refused(ErrorCode.DEVICE_UNSUPPORTED)))
        assertEquals(null, remedy(LockState.Unlocked("full", until)))
        assertEquals(Tone.UNLOCKED, English.notice(LockState.Unlocked("full", until)).tone)
    }

    @Test
    fun `German is another language in every text`() {
        val same = setOf("getDismiss", "getApp", "getCodeLabel")
        val texts =
            Strings::class.java.methods.filter {
                it.parameterCount == 0 &&
                    it.returnType in setOf(String::class.java, Words::class.java)
            }
        assertTrue(texts.size > 50)
        for (text in texts.filterNot { it.name in same }) assertNotEquals(text.name, text.invoke(English), text.invoke(German))
        assertEquals(10, German.classes.size)
        assertEquals(10, English.classes.size)
        assertEquals("92,1\u00a0%", German.percent(.921f, 1))
    }

    @Test
    fun `German phones speak German, all others English`() {
        assertEquals(German, Strings.of(Locale.forLanguageTag("de-CH")))
        assertEquals(English, Strings.of(Locale.forLanguageTag("fr-FR")))
    }
}
