package org.corelocker.demo

import kotlinx.coroutines.CompletableDeferred
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Refusal
import org.corelocker.demo.model.Sale
import org.corelocker.demo.screens.AccessViewModel
import org.corelocker.demo.screens.Message
import org.corelocker.demo.screens.Offers
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

class AccessViewModelTest {
    @get:Rule
    val main = MainDispatcherRule()

    private val journal = Journal()
    private val app = FakeApp(journal)
    private val shop = FakeShop(journal)
    private val model by lazy { AccessViewModel(app, shop, main.dispatcher) }
    private val full = Offer("full", "€4.99")
    private val refusal = Refusal(ErrorCode.DEVICE_LIMIT)

    @Test
    fun `a purchase is acknowledged after its unlock`() {
        model.buy(full)
        assertEquals(listOf("buy full", "unlock full", "acknowledge full"), journal.lines)
        assertEquals(Message.Unlocked, model.state.value.message)
        assertEquals(LockState.Unlocked("full", null), model.state.value.lock)
        assertEquals(
            "full",
            model.state.value.license
                ?.tier,
        )
        assertFalse(model.state.value.busy)
    }

    @Test
    fun `a purchase that is refused is not acknowledged`() {
        app.refusal = refusal
        model.buy(full)
        assertEquals(listOf("buy full", "unlock full"), journal.lines)
        assertEquals(Message.Refused(refusal), model.state.value.message)
        assertNull(model.state.value.license)
    }

    @Test
    fun `a shop that was not told is told when the app comes back`() {
        shop.acknowledges = false
        model.buy(full)
        assertEquals(Message.AcknowledgeLater, model.state.value.message)
        shop.acknowledges = true
        journal.lines.clear()
        model.resume()
        // The license is there: another unlock would make another key for nothing.
        assertEquals(listOf("refresh", "acknowledge full"), journal.lines)
        journal.lines.clear()
        model.resume()
        assertEquals(listOf("refresh"), journal.lines)
    }

    @Test
    fun `an order that was paid for meanwhile is served, and the highest license stays`() {
        shop.orders += FakeShop.order("full", acknowledged = true)
        shop.orders += FakeShop.order("plus")
        model.resume()
        assertEquals(listOf("refresh", "unlock full", "acknowledge plus"), journal.lines)
        assertEquals(LockState.Unlocked("full", null), app.state.value)
    }

    @Test
    fun `a higher tier is unlocked, a license that covers the purchase is renewed`() {
        model.buy(Offer("plus", "€1.99"))
        journal.lines.clear()
        model.restorePurchases()
        assertEquals(listOf("renew"), journal.lines)
        assertEquals(Message.Unlocked, model.state.value.message)
        journal.lines.clear()
        model.buy(full)
        assertEquals(listOf("buy full", "unlock full", "acknowledge full"), journal.lines)
    }

    @Test
    fun `a license that the service has taken back is unlocked anew, any other refusal leaves it`() {
        model.buy(full)
        app.refusal = refusal
        journal.lines.clear()
        model.restorePurchases()
        assertEquals(listOf("renew"), journal.lines)
        assertEquals(Message.Refused(refusal), model.state.value.message)
        app.refusal = null
        app.revoked = true
        model.restorePurchases()
        assertEquals(listOf("renew", "renew", "unlock full"), journal.lines)
        assertEquals(Message.Unlocked, model.state.value.message)
    }

    @Test
    fun `coming back twice at once serves once`() {
        shop.orders += FakeShop.order("full")
        val gate = CompletableDeferred<Unit>().also { app.gate = it }
        model.resume()
        model.resume()
        gate.complete(Unit)
        assertEquals(listOf("refresh", "unlock full", "acknowledge full"), journal.lines)
    }

    @Test
    fun `sales that end otherwise unlock nothing`() {
        for ((sale, message) in listOf(Sale.Cancelled to null, Sale.Pending to Message.PaymentPending)) {
            shop.sale = sale
            model.buy(full)
            assertEquals(message, model.state.value.message)
        }
        assertFalse(journal.lines.any { "unlock" in it })
        shop.closed = true
        model.buy(full)
        assertEquals(Message.ShopUnavailable, model.state.value.message)
        model.messageShown()
        assertNull(model.state.value.message)
    }

    @Test
    fun `what is owned already is restored, the highest tier of all`() {
        model.restorePurchases()
        assertEquals(Message.NothingToRestore, model.state.value.message)
        shop.orders += listOf(FakeShop.order("plus", true), FakeShop.order("full", true))
        shop.sale = Sale.AlreadyOwned
        model.buy(full)
        assertEquals(listOf("buy full", "unlock full"), journal.lines)
        assertEquals(Message.Unlocked, model.state.value.message)
    }

    @Test
    fun `one thing at a time`() {
        val gate = CompletableDeferred<Unit>().also { shop.gate = it }
        model.buy(full)
        assertTrue(model.state.value.busy)
        model.buy(full)
        model.restorePurchases()
        gate.complete(Unit)
        assertEquals(listOf("buy full", "unlock full", "acknowledge full"), journal.lines)
        assertFalse(model.state.value.busy)
    }

    @Test
    fun `coming back from the shop's own screen serves nothing twice`() {
        val gate = CompletableDeferred<Unit>().also { shop.gate = it }
        model.buy(full)
        shop.orders += FakeShop.order("full")
        model.resume()
        gate.complete(Unit)
        assertEquals(listOf("buy full", "refresh", "unlock full", "acknowledge full"), journal.lines)
    }

    @Test
    fun `offers come, or the shop is closed`() {
        shop.closed = true
        model.loadOffers()
        assertEquals(Offers.Unavailable, model.state.value.offers)
        shop.closed = false
        model.loadOffers()
        assertEquals(2, (model.state.value.offers as Offers.Ready).list.size)
    }

    @Test
    fun `renews and forgets`() {
        model.buy(full)
        model.renew()
        assertEquals(Message.Renewed, model.state.value.message)
        app.refusal = refusal
        model.renew()
        assertEquals(Message.Refused(refusal), model.state.value.message)
        model.forget()
        assertEquals(Message.Refused(refusal), model.state.value.message)
        app.refusal = null
        model.forget()
        assertEquals(Message.Removed, model.state.value.message)
        assertEquals(LockState.Locked, model.state.value.lock)
        assertNull(model.state.value.license)
    }
}
