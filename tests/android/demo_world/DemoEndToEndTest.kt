package org.corelocker.demo

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.newSingleThreadContext
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.test.resetMain
import kotlinx.coroutines.test.setMain
import kotlinx.coroutines.withTimeoutOrNull
import org.corelocker.android.DevelopmentKeys
import org.corelocker.android.FullCheck
import org.corelocker.android.LockedBytes
import org.corelocker.android.RestoredFile
import org.corelocker.core.AppConfig
import org.corelocker.core.ClockReading
import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.Device
import org.corelocker.core.ErrorCode
import org.corelocker.core.KeyBundle
import org.corelocker.core.LicenseFiles
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import org.corelocker.core.RetryPolicy
import org.corelocker.core.UnlockClient
import org.corelocker.core.UnlockResult
import org.corelocker.demo.model.Classifier
import org.corelocker.demo.model.LicenseDetails
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.Measured
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Order
import org.corelocker.demo.model.Refusal
import org.corelocker.demo.model.Sale
import org.corelocker.demo.model.SampleSet
import org.corelocker.demo.model.Shop
import org.corelocker.demo.screens.AccessViewModel
import org.corelocker.demo.screens.ClassifyViewModel
import org.corelocker.demo.screens.CompareViewModel
import org.corelocker.demo.screens.Message
import org.corelocker.executorch.LockedModule
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor
import java.io.File
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

/** The demo without a phone: its assets, its view models, the real unlock service, the C core and ExecuTorch. */
@OptIn(ExperimentalCoroutinesApi::class, kotlinx.coroutines.DelicateCoroutinesApi::class)
class DemoEndToEndTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val assets = File(System.getProperty("demo.assets"))
    private val main = newSingleThreadContext("main")
    private val samples =
        SampleSet.parse(File(assets, "images/images.idx").readBytes(), File(assets, "images/labels.idx").readBytes())

    @Before
    fun setMain() = Dispatchers.setMain(main)

    @After
    fun resetMain() {
        Dispatchers.resetMain()
        main.close()
    }

    private fun <T> StateFlow<T>.await(condition: (T) -> Boolean): T =
        runBlocking { checkNotNull(withTimeoutOrNull(60.seconds) { first(condition) }) { "it stays $value" } }

    private fun measured(app: LockedApp): Map<String, Measured> {
        val compare = CompareViewModel(app, samples)
        compare.measure()
        return compare.state
            .await { it.progress == null && it.measured.isNotEmpty() }
            .measured
            .associateBy(Measured::tier)
    }

    @Test
    fun `a purchase makes the demo right`() {
        val app = HostApp(assets, folder.root)
        assertEquals(setOf("free"), measured(app).keys)
        assertTrue(measured(app).getValue("free").accuracy < 0.3f)
        val classify = ClassifyViewModel(app, samples)
        classify.state.await { it.tier == "free" && it.predictions.isNotEmpty() }

        val shop = GrantShop(assets)
        val access = AccessViewModel(app, shop)
        access.buy(Offer("full", ""))
        val refused = access.state.await { it.message != null }.message
        assertEquals(Message.Refused(Refusal(ErrorCode.SERVICE_UNREACHABLE)), refused)
        assertEquals(LockState.Refused(ErrorCode.SERVICE_UNREACHABLE), app.state.value)
        assertTrue(shop.acknowledged.isEmpty())

        service().use {
            access.resume()
            access.state.await { it.message == Message.Unlocked }
            assertEquals(listOf("full"), shop.acknowledged)
            val license = checkNotNull(access.state.await { it.license != null }.license)
            assertEquals("org.corelocker.demo.emulator", license.app)
            assertTrue(license.development && license.tier == "full")
            val right =
                classify.state
                    .await { it.tier == "full" && it.predictions.isNotEmpty() }
                    .predictions
                    .first()
            assertEquals(samples.first().label, right.label)
        }
        // The service is gone; the license counts.
        val tiers = measured(HostApp(assets, folder.root))
        assertEquals(listOf("free", "plus", "full"), tiers.keys.toList())
        assertTrue(tiers.getValue("plus").accuracy in 0.6f..0.9f)
        assertTrue(tiers.getValue("full").accuracy > 0.9f)
        println(tiers.values.joinToString("\n"))
    }

    /** `corelocker service run`, once it is ready. */
    private fun service(): AutoCloseable {
        val config = File(assets, "state/service/service.toml").path
        val command = listOf(System.getProperty("corelocker.python"), "-m", "corelocker", "service", "run", "--config", config)
        val log = folder.newFile("service.log")
        val process = ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log).start()
        val address = java.net.URI("${HostApp.serviceUrl(assets)}/readyz").toURL()
        val end = System.nanoTime() + 60.seconds.inWholeNanoseconds
        while (runCatching { address.readText() }.isFailure) {
            check(process.isAlive && System.nanoTime() < end) { "the service does not start:\n${log.readText()}" }
            Thread.sleep(50)
        }
        return AutoCloseable {
            process.destroy()
            process.waitFor()
        }
    }
}

/** What the app module has over CoreLocker, over files in the place of assets. */
@OptIn(CoreLockerInternal::class)
private class HostApp(
    private val assets: File,
    folder: File,
) : LockedApp {
    private val config = AppConfig.parse(config(assets).toByteArray())
    private val bundle = KeyBundle.open(File(assets, "model/fashion.clkey"), config.publisher)
    private val files = LicenseFiles(folder)
    private val keys = DevelopmentKeys(File(assets, "development/corelocker-development.pem").readText(), folder)
    private val clock = { ClockReading(System.currentTimeMillis() / 1000, System.nanoTime() / 1_000_000_000, "boot") }
    private val retry = RetryPolicy(attempts = 2, firstWait = 1.milliseconds)
    private val client = UnlockClient(config, bundle, Device(keys, files, files, clock), retry = retry)
    override val state: StateFlow<LockState> get() = client.state
    override val tiers: List<String> get() = bundle.tiers

    override fun license(): LicenseDetails? =
        try {
            LicenseDetails.of(client.license())
        } catch (_: CoreLockerException) {
            null
        }

    override suspend fun refresh() {
        client.refresh()
    }

    override suspend fun renew(): Refusal? = (client.renew() as? UnlockResult.Refused)?.let { Refusal(it.error.code) }

    override suspend fun unlock(
        purchase: Purchase,
        tier: String,
    ): Refusal? = (client.unlock(purchase, tier) as? UnlockResult.Refused)?.let { Refusal(it.error.code) }

    override suspend fun forget(): Refusal? {
        client.forget()
        return null
    }

    override fun classifier(upTo: String?): Classifier {
        val locked = LockedBytes.InFile(File(assets, "model/fashion.pte"))
        val module = LockedModule.of(client.patches("fashion.pte", upTo = upTo).use { RestoredFile.open(locked, it, FullCheck.ONCE) })
        return object : Classifier {
            override val tier = tiers[module.tier]

            override fun scores(pixels: FloatArray): FloatArray {
                val input = EValue.from(Tensor.fromBlob(pixels, longArrayOf(1, 1, 28, 28)))
                return module
                    .forward(input)
                    .single()
                    .toTensor()
                    .dataAsFloatArray
            }

            override fun close() = module.close()
        }
    }

    companion object {
        /** The emulator's name for this machine is of use on an emulator alone. */
        private fun config(assets: File) = File(assets, "development/corelocker.json").readText().replace("10.0.2.2", "127.0.0.1")

        fun serviceUrl(assets: File): String = AppConfig.parse(config(assets).toByteArray()).service
    }
}

/** The development shop of the emulator flavor, over files. */
private class GrantShop(
    private val assets: File,
) : Shop {
    val acknowledged = mutableListOf<String>()
    private val owned = mutableListOf<String>()

    override suspend fun offers(): List<Offer> = listOf("plus", "full").map { Offer(it, "") }

    override suspend fun buy(offer: Offer): Sale = Sale.Sold(order(offer.tier).also { owned += offer.tier })

    override suspend fun owned(): List<Order> = owned.map(::order)

    override suspend fun acknowledge(order: Order) {
        acknowledged += order.tier
    }

    private fun order(tier: String): Order {
        val grant = File(assets, "development/grant-$tier.jws").readText()
        return Order(tier, Purchase.grant(grant), tier in acknowledged, reference = tier)
    }
}
