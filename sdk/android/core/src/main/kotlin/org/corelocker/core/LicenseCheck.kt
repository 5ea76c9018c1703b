package org.corelocker.core

/**
 * A reading of a device's clocks.
 *
 * ```
 * ClockReading(System.currentTimeMillis() / 1000, SystemClock.elapsedRealtime() / 1000, "boot $count")
 * ```
 *
 * @property wall the clock that its owner can set, Unix seconds.
 * @property ticks seconds of a clock that runs on through sleep and starts anew with the device.
 * @property boot names the start-up that [ticks] counts from.
 */
public data class ClockReading(
    public val wall: Long,
    public val ticks: Long,
    public val boot: String,
)

/**
 * Reads the clocks of the device.
 *
 * ```
 * val clock = DeviceClock { ClockReading(now(), uptime(), bootId) }
 * ```
 */
public fun interface DeviceClock {
    /** The clocks as they are now. */
    public fun read(): ClockReading
}

/**
 * The latest time that was seen (Unix seconds), and the reading of the other clock then. It never falls, so that setting
 * the clock back gains nothing.
 *
 * ```
 * override fun loadMark() = preferences.read()?.let { ClockMark(it.time, it.ticks, it.boot) }
 * ```
 *
 * @property time the latest that was seen, Unix seconds.
 * @property ticks what [ClockReading.ticks] was then.
 * @property boot what [ClockReading.boot] was then.
 */
public data class ClockMark(
    public val time: Long,
    public val ticks: Long,
    public val boot: String,
)

/**
 * Where the mark survives a restart. [LicenseFiles] is one.
 *
 * ```
 * class Marks(private val preferences: SharedPreferences) : ClockMarkStore {
 *     override fun loadMark() = preferences.getString("mark", null)?.let(::decode)
 *     override fun saveMark(mark: ClockMark) = preferences.edit(commit = true) { putString("mark", encode(mark)) }
 *     override fun removeMark() = preferences.edit(commit = true) { remove("mark") }
 * }
 * ```
 */
public interface ClockMarkStore {
    /** The mark, null when there was never one. Throws [CoreLockerException] with LICENSE_CLOCK when it is damaged. */
    public fun loadMark(): ClockMark?

    /** Keeps a mark in the place of the one before. */
    public fun saveMark(mark: ClockMark)

    /** Drops the mark, a damaged one too. */
    public fun removeMark()
}

/** A license that may be used now. */
internal class CheckedLicense(
    val license: License,
    val use: Use,
) {
    /** RENEW: valid, and it is time to renew. GRACE: it has ended, and the app grants time offline. */
    enum class Use { VALID, RENEW, GRACE }
}

/**
 * What an app expects of its license; everything is fixed by the app, its key bundle and its device key.
 *
 * @property tiers those that are accepted: the one that was asked for, or every tier of the key bundle but the first.
 */
internal class ExpectedLicense(
    val issuer: String,
    val app: String,
    val environment: Environment,
    val bundle: String,
    val modelVersion: Long,
    val device: String,
    val offlineGraceSeconds: Long,
    val tiers: List<String>,
)

/** Checks everything about a license that a device can check before the content key is opened. */
internal class LicenseCheck(
    private val clock: DeviceClock,
    private val marks: ClockMarkStore,
) {
    /** Throws [CoreLockerException] with the LICENSE_* code of the first check that fails. */
    fun check(
        license: License,
        expected: ExpectedLicense,
    ): CheckedLicense {
        checkPlace(license, expected)
        val now = now(license, expected.offlineGraceSeconds)
        if (now < license.notBefore.epochSecond) refuse(ErrorCode.LICENSE_NOT_YET_VALID, "the license is not valid yet")
        val end = license.expiresAt?.epochSecond
        if (end != null && now >= end) {
            if (now >= end + expected.offlineGraceSeconds) refuse(ErrorCode.LICENSE_EXPIRED, "the license has ended")
            return CheckedLicense(license, CheckedLicense.Use.GRACE)
        }
        val due = license.renewAt?.let { now >= it.epochSecond } ?: false
        return CheckedLicense(license, if (due) CheckedLicense.Use.RENEW else CheckedLicense.Use.VALID)
    }

    private fun checkPlace(
        license: License,
        expected: ExpectedLicense,
    ) {
        fun match(
            matches: Boolean,
            code: ErrorCode,
            what: String,
        ) {
            if (!matches) refuse(code, "the license is for another $what")
        }
        match(license.issuer == expected.issuer, ErrorCode.LICENSE_ISSUER, "service")
        match(license.app == expected.app, ErrorCode.LICENSE_AUDIENCE, "app")
        match(license.environment == expected.environment, ErrorCode.LICENSE_ENVIRONMENT, "environment")
        match(license.device == expected.device, ErrorCode.LICENSE_DEVICE, "device key")
        match(license.bundle == expected.bundle, ErrorCode.LICENSE_BUNDLE, "key bundle")
        match(license.modelVersion == expected.modelVersion, ErrorCode.LICENSE_MODEL_VERSION, "version of the model")
        match(license.tier in expected.tiers, ErrorCode.LICENSE_TIER, "tier")
    }

    /**
     * The time to judge the license by; moves the mark, and keeps it before anything is decided.
     *
     * The wall clock moves the mark no further than to the end of the license: a clock that was wrong by years ends this
     * license, and the next one works again. Refused with LICENSE_CLOCK: a clock that is more than a day behind the mark, or
     * behind the time at which the license was issued. One that is a little behind gains nothing.
     */
    private fun now(
        license: License,
        graceSeconds: Long,
    ): Long = synchronized(marks) { moveMark(license, graceSeconds) } // models are restored while licenses are renewed

    private fun moveMark(
        license: License,
        graceSeconds: Long,
    ): Long {
        val reading = clock.read()
        val mark = marks.loadMark()
        val issued = license.issuedAt.epochSecond
        val up = if (mark != null && mark.boot == reading.boot) maxOf(reading.ticks - mark.ticks, 0) else 0
        val seen = if (mark == null) issued else maxOf(issued, mark.time + up)
        val now = maxOf(seen, reading.wall)
        val end = license.expiresAt?.let { it.epochSecond + graceSeconds } ?: issued
        marks.saveMark(ClockMark(maxOf(seen, minOf(now, end)), reading.ticks, reading.boot))
        if (license.expiresAt != null && reading.wall < seen - CLOCK_TOLERANCE) {
            refuse(ErrorCode.LICENSE_CLOCK, "the clock of this device is behind; set its date and time")
        }
        return now
    }

    private fun refuse(
        code: ErrorCode,
        message: String,
    ): Nothing = throw CoreLockerException(code, message)

    private companion object {
        /** A traveler who sets the hour by hand: a day. */
        const val CLOCK_TOLERANCE = 86_400L
    }
}
