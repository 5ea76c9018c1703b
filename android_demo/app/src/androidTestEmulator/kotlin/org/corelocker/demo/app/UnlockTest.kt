package org.corelocker.demo.app

import android.content.Context
import androidx.test.platform.app.InstrumentationRegistry
import kotlinx.coroutines.runBlocking
import org.corelocker.android.CoreLocker
import org.corelocker.core.LockState
import org.corelocker.demo.model.SampleSet
import org.corelocker.demo.model.measure
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** On an emulator, with `corelocker service run` on the machine that runs it: the whole way of a purchase. */
class UnlockTest {
    private val context: Context = InstrumentationRegistry.getInstrumentation().targetContext

    private fun asset(name: String) = context.assets.open(name).use { it.readBytes() }

    private val samples by lazy { SampleSet.parse(asset("images.idx"), asset("labels.idx")) }

    @Test
    fun aDevelopmentPurchaseRestoresTheModel() =
        runBlocking {
            CoreLocker.open(context).use { locker ->
                val app = LockerApp(locker)
                val shop = shop(context, locker.bundle.tiers.drop(1))
                app.forget()
                assertEquals(LockState.Locked, app.state.value)
                val locked = scores(app)
                assertTrue(measure(app, "full", samples) {}.accuracy < 0.3f)

                shop.buy(shop.offers().last())
                val order = shop.owned().last()
                assertNull(app.unlock(order.purchase, order.tier))
                assertEquals("full", (app.state.value as LockState.Unlocked).tier)
                assertTrue(measure(app, "full", samples) {}.accuracy > 0.9f)
                assertArrayEquals(locked, scores(app, upTo = "free"), 0f)
                assertNull(app.renew())
                app.forget()
                assertArrayEquals(locked, scores(app), 0f)
            }
        }

    private fun scores(
        app: LockerApp,
        upTo: String? = null,
    ) = app.classifier(upTo).use { it.scores(samples.first().image.toInput()) }
}
