package org.corelocker.demo

import androidx.compose.ui.graphics.Canvas
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.Paint
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.demo.model.GrayImage
import org.corelocker.demo.model.LicenseDetails
import org.corelocker.demo.model.Measured
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Refusal
import org.corelocker.demo.model.Sample
import org.corelocker.demo.model.SampleSet
import org.corelocker.demo.model.predictions
import org.corelocker.demo.model.tierOf
import org.corelocker.demo.screens.AccessState
import org.corelocker.demo.screens.ClassifyState
import org.corelocker.demo.screens.CompareState
import org.corelocker.demo.screens.Failure
import org.corelocker.demo.screens.Message
import org.corelocker.demo.screens.Offers
import org.corelocker.demo.screens.Subject
import org.corelocker.demo.words.English
import org.corelocker.demo.words.German
import org.corelocker.demo.words.Strings
import java.io.File
import java.time.Instant

/** What the pictures show: each state of the lock, and screens to go with it. */
internal object Examples {
    val tiers = listOf("free", "plus", "full")
    private val now: Instant = Instant.parse("2026-11-30T10:42:00Z")
    private val end: Instant = Instant.parse("2026-12-30T10:42:00Z")

    val locks: Map<String, LockState> =
        mapOf(
            "locked" to LockState.Locked,
            "unlocking" to LockState.Unlocking(1),
            "waiting" to LockState.Unlocking(2, now.plusSeconds(5), ErrorCode.SERVICE_UNREACHABLE),
            "unlocked" to LockState.Unlocked("full", end),
            "plus" to LockState.Unlocked("plus", null),
            "offline" to LockState.OfflineUntil("full", end),
            "expired" to LockState.Expired,
            "revoked" to LockState.Revoked(ErrorCode.PURCHASE_REVOKED),
            "refused" to LockState.Refused(ErrorCode.DEVICE_LIMIT),
            "unreachable" to LockState.Refused(ErrorCode.SERVICE_UNREACHABLE),
        )

    /** A short one and the longest. */
    val messages: Map<String, Message> =
        mapOf(
            "unlocked" to Message.Unlocked,
            "refused" to Message.Refused(Refusal(ErrorCode.DEVICE_LIMIT, end)),
        )

    val samples: List<Sample> by lazy {
        val folder = File(System.getProperty("demo.images"))
        SampleSet.parse(File(folder, "images.idx").readBytes(), File(folder, "labels.idx").readBytes())
    }
    private val gallery by lazy { samples.take(10).map { it.image.toBitmap() } }

    fun classify(lock: LockState): ClassifyState {
        val tier = lock.tierOf(tiers) ?: "free"
        val trousers = 1
        val scores =
            if (tier == "free") {
                floatArrayOf(.1f, .2f, .1f, .7f, .2f, .1f, .2f, .1f, 1.4f, .3f)
            } else {
                FloatArray(10) { if (it == trousers) 5.1f else 1.4f - .3f * it }
            }
        return ClassifyState(gallery, Subject.OfGallery(trousers, trousers), gallery[trousers], tier, predictions(scores))
    }

    fun failure(lock: LockState) = classify(lock).copy(predictions = emptyList(), failure = Failure.ModelFails("memory"))

    /** A pullover on a table, as a phone would see it. */
    val photo: ImageBitmap by lazy {
        val bitmap = ImageBitmap(240, 240)
        val canvas = Canvas(bitmap)

        fun box(
            color: Long,
            left: Int,
            top: Int,
            right: Int,
            bottom: Int,
        ) = canvas.drawRect(left.toFloat(), top.toFloat(), right.toFloat(), bottom.toFloat(), Paint().apply { this.color = Color(color) })
        box(0xFFD9CDBB, 0, 0, 240, 240)
        box(0xFF2F4C8C, 76, 50, 164, 196)
        box(0xFF2F4C8C, 40, 56, 76, 182)
        box(0xFF2F4C8C, 164, 56, 200, 182)
        box(0xFFD9CDBB, 104, 44, 136, 62)
        bitmap
    }

    fun photo(): ClassifyState {
        val scores = FloatArray(10) { if (it == 2) 4f else 1f - .2f * it }
        return ClassifyState(gallery, Subject.Photo(photo), GrayImage.of(photo).toBitmap(), "full", predictions(scores))
    }

    fun compare(lock: LockState): CompareState {
        val place = tiers.indexOf(lock.tierOf(tiers) ?: "free")
        // As DemoEndToEndTest measured it.
        val all =
            listOf(
                Measured("free", 20, 200, 32_528_035, 176_063),
                Measured("plus", 170, 200, 53_457_262, 170_675),
                Measured("full", 186, 200, 35_456_330, 171_306),
            )
        return CompareState(all.take(place + 1))
    }

    fun access(
        lock: LockState,
        strings: Strings = English,
    ): AccessState {
        val tier = lock.tierOf(tiers)
        val license = if (lock is LockState.Unlocked || lock is LockState.OfflineUntil) license(checkNotNull(tier), lock) else null
        return AccessState(lock, tiers, license, Offers.Ready(offers(strings)))
    }

    /** As the shop words them. */
    private fun offers(strings: Strings) =
        if (strings == German) {
            listOf(Offer("plus", "1,99 €"), Offer("full", "4,99 €"))
        } else {
            listOf(Offer("plus", "€1.99"), Offer("full", "€4.99"))
        }

    private fun license(
        tier: String,
        lock: LockState,
    ): LicenseDetails {
        val expires = end.takeIf { (lock as? LockState.Unlocked)?.until != null || lock is LockState.OfflineUntil }
        return LicenseDetails(
            id = "5d0c1f6e-9a43-4f0e-8a57-0d7f4a3b9c21",
            tier = tier,
            issuedAt = now,
            expiresAt = expires,
            renewAt = expires?.minusSeconds(864_000),
            app = "org.corelocker.demo",
            modelVersion = 1,
            device = "1Kvw2eMNJhhPHk83t9lvkgSxEL_VrG2swJz9Gsjc1PA",
            development = false,
        )
    }
}
