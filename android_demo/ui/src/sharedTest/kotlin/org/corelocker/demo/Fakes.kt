package org.corelocker.demo

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.flow.MutableStateFlow
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import org.corelocker.demo.model.Classifier
import org.corelocker.demo.model.GrayImage
import org.corelocker.demo.model.LicenseDetails
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.ModelException
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Order
import org.corelocker.demo.model.Refusal
import org.corelocker.demo.model.Sale
import org.corelocker.demo.model.Sample
import org.corelocker.demo.model.Shop
import org.corelocker.demo.model.ShopException
import org.corelocker.demo.model.tierOf
import java.time.Instant

/** What happened, in its order. */
class Journal {
    val lines = mutableListOf<String>()
}

/** A model whose pixels say what they are: the first is the label. Locked it says 0, plus is wrong about every second label. */
class FakeApp(
    private val journal: Journal = Journal(),
) : LockedApp {
    override val state = MutableStateFlow<LockState>(LockState.Locked)
    override val tiers = listOf("free", "plus", "full")

    /** Answers unlocks and renewals when it is not null. */
    var refusal: Refusal? = null
    var modelFails: String? = null
    var open = 0

    override fun license(): LicenseDetails? =
        (state.value as? LockState.Unlocked)?.let {
            LicenseDetails("id", it.tier, Instant.EPOCH, it.until, null, "org.corelocker.demo", 1, "key", development = true)
        }

    /** Holds a refresh back until it is completed. */
    var gate: CompletableDeferred<Unit>? = null

    override suspend fun refresh() {
        journal.lines += "refresh"
        gate?.await()
    }

    /** Whether the service says that the right is gone, which removes the license. */
    var revoked = false

    override suspend fun renew(): Refusal? {
        journal.lines += "renew"
        if (!revoked) return refusal
        state.value = LockState.Revoked(ErrorCode.DEVICE_INACTIVE)
        return Refusal(ErrorCode.DEVICE_INACTIVE)
    }

    override suspend fun unlock(
        purchase: Purchase,
        tier: String,
    ): Refusal? {
        journal.lines += "unlock $tier"
        val refused = refusal
        state.value = if (refused == null) LockState.Unlocked(tier, null) else LockState.Refused(refused.code)
        return refused
    }

    override suspend fun forget(): Refusal? {
        journal.lines += "forget"
        if (refusal == null) state.value = LockState.Locked
        return refusal
    }

    override fun classifier(upTo: String?): Classifier {
        modelFails?.let { throw ModelException(it) }
        val highest = tiers.indexOf(state.value.tierOf(tiers) ?: "free")
        return FakeClassifier(tiers[minOf(highest, upTo?.let(tiers::indexOf) ?: highest)])
    }

    private inner class FakeClassifier(
        override val tier: String,
    ) : Classifier {
        init {
            open++
        }

        override fun scores(pixels: FloatArray): FloatArray {
            val label = (pixels[0] * 255).toInt()
            val answer = if (tier == "full" || (tier == "plus" && label % 2 == 0)) label else 0
            return FloatArray(10) { if (it == answer) 5f else 0f }
        }

        override fun close() {
            open--
        }
    }
}

/** Sells plus and full. */
class FakeShop(
    private val journal: Journal = Journal(),
) : Shop {
    val orders = mutableListOf<Order>()
    var sale: Sale? = null
    var closed = false
    var acknowledges = true

    /** Holds a purchase back until it is completed. */
    var gate: CompletableDeferred<Unit>? = null

    override suspend fun offers(): List<Offer> {
        requireOpen()
        return listOf(Offer("plus", "€1.99"), Offer("full", "€4.99"))
    }

    override suspend fun buy(offer: Offer): Sale {
        requireOpen()
        journal.lines += "buy ${offer.tier}"
        gate?.await()
        return sale ?: Sale.Sold(order(offer.tier).also(orders::add))
    }

    override suspend fun owned(): List<Order> {
        requireOpen()
        return orders.toList()
    }

    override suspend fun acknowledge(order: Order) {
        requireOpen()
        if (!acknowledges) throw ShopException("not now")
        journal.lines += "acknowledge ${order.tier}"
        orders.replaceAll { if (it.tier == order.tier) order(it.tier, acknowledged = true) else it }
    }

    private fun requireOpen() {
        if (closed) throw ShopException("closed")
    }

    companion object {
        fun order(
            tier: String,
            acknowledged: Boolean = false,
        ) = Order(tier, Purchase.grant("grant of $tier"), acknowledged, reference = tier)
    }
}

/** Images that [FakeApp] knows: [count] of each label. */
fun fakeSamples(count: Int = 1): List<Sample> =
    List(10 * count) { Sample(GrayImage(ByteArray(GrayImage.SIDE * GrayImage.SIDE).apply { set(0, (it % 10).toByte()) }), it % 10) }
