package org.corelocker.demo.screens

import androidx.lifecycle.ViewModel
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import org.corelocker.core.LockState
import org.corelocker.demo.model.LicenseDetails
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Order
import org.corelocker.demo.model.Refusal
import org.corelocker.demo.model.Sale
import org.corelocker.demo.model.Shop
import org.corelocker.demo.model.ShopException
import org.corelocker.demo.model.tierOf

/** What the shop has. */
sealed interface Offers {
    data object Loading : Offers

    data class Ready(
        val list: List<Offer>,
    ) : Offers

    data object Unavailable : Offers
}

/** What came of what the customer asked for; shown once. */
sealed interface Message {
    data object Unlocked : Message

    /** Unlocked, but the shop could not be told; the app tells it when it is opened again. */
    data object AcknowledgeLater : Message

    data object Renewed : Message

    data object Removed : Message

    data object NothingToRestore : Message

    data object PaymentPending : Message

    data object ShopUnavailable : Message

    data class Refused(
        val refusal: Refusal,
    ) : Message
}

/**
 * What the screens show about plans and license.
 *
 * @property tiers all tiers; the first is what ships.
 * @property busy whether a purchase, a renewal or the like is under way.
 */
data class AccessState(
    val lock: LockState,
    val tiers: List<String>,
    val license: LicenseDetails? = null,
    val offers: Offers = Offers.Loading,
    val busy: Boolean = false,
    val message: Message? = null,
) {
    /** The place among [tiers] of the tier that counts now. */
    val place: Int get() = (lock.tierOf(tiers) ?: license?.tier)?.let(tiers::indexOf)?.coerceAtLeast(0) ?: 0
}

/**
 * Buys, unlocks, renews, restores. A purchase is acknowledged after its unlock, never before.
 *
 * Each unlock makes a device key in the secure hardware, which takes its time: what the license covers already is not unlocked again.
 */
class AccessViewModel(
    private val app: LockedApp,
    private val shop: Shop,
    private val worker: CoroutineDispatcher = Dispatchers.IO,
) : ViewModel() {
    private val states = MutableStateFlow(AccessState(app.state.value, app.tiers))
    val state: StateFlow<AccessState> = states.asStateFlow()
    private val serving = Mutex()
    private var resuming: Job? = null

    init {
        viewModelScope.launch {
            app.state.collect { lock ->
                val license = withContext(worker) { app.license() }
                states.update { it.copy(lock = lock, license = license) }
            }
        }
    }

    /** When the app comes to the foreground: renews what is due, and serves purchases that were paid for meanwhile. */
    fun resume() {
        if (resuming?.isActive == true) return
        resuming =
            viewModelScope.launch {
                app.refresh()
                // The app also comes back from the shop's own screens: that purchase is served already.
                if (states.value.busy) return@launch
                try {
                    val message = servePending() ?: return@launch
                    states.update { it.copy(message = message) }
                } catch (_: ShopException) {
                    // It is asked again the next time, and the customer can restore purchases.
                }
            }
    }

    fun loadOffers() {
        states.update { it.copy(offers = Offers.Loading) }
        viewModelScope.launch {
            val offers =
                try {
                    Offers.Ready(shop.offers())
                } catch (_: ShopException) {
                    Offers.Unavailable
                }
            states.update { it.copy(offers = offers) }
        }
    }

    fun buy(offer: Offer) =
        working {
            when (val sale = shop.buy(offer)) {
                is Sale.Sold -> serve(sale.order)
                Sale.Cancelled -> null
                Sale.Pending -> Message.PaymentPending
                Sale.AlreadyOwned -> restore()
            }
        }

    fun restorePurchases() = working(::restore)

    fun renew() = working { app.renew()?.let(Message::Refused) ?: Message.Renewed }

    fun forget() = working { app.forget()?.let(Message::Refused) ?: Message.Removed }

    fun messageShown() = states.update { it.copy(message = null) }

    /** The highest tier that this customer owns; the others are a part of it. */
    private suspend fun restore(): Message {
        val order = shop.owned().maxByOrNull { app.tiers.indexOf(it.tier) } ?: return Message.NothingToRestore
        if (covers(order)) {
            val refused = app.renew()
            if (refused != null && covers(order)) return Message.Refused(refused)
        }
        return serve(order)
    }

    /** What was paid for and not served yet, the highest tier first: its license covers the others. */
    private suspend fun servePending(): Message? {
        val owned = shop.owned().sortedByDescending { app.tiers.indexOf(it.tier) }
        if (owned.all(Order::acknowledged)) return null
        val messages = owned.filter { !it.acknowledged || it == owned.first() }.map { serve(it) }
        return messages.firstOrNull { it != Message.Unlocked } ?: Message.Unlocked
    }

    private suspend fun serve(order: Order): Message =
        serving.withLock {
            val refused = if (covers(order)) null else app.unlock(order.purchase, order.tier)
            if (refused != null) return Message.Refused(refused)
            try {
                if (!order.acknowledged) shop.acknowledge(order)
                Message.Unlocked
            } catch (_: ShopException) {
                Message.AcknowledgeLater
            }
        }

    /** Whether the license that counts is of the order's tier, or of a higher one. */
    private suspend fun covers(order: Order): Boolean {
        val held = withContext(worker) { app.license() } ?: return false
        return app.tiers.indexOf(held.tier) >= app.tiers.indexOf(order.tier)
    }

    private fun working(work: suspend () -> Message?) {
        if (states.value.busy) return
        states.update { it.copy(busy = true, message = null) }
        viewModelScope.launch {
            var message: Message? = null
            try {
                message = work()
            } catch (_: ShopException) {
                message = Message.ShopUnavailable
            } finally {
                states.update { it.copy(busy = false, message = message) }
            }
        }
    }
}
