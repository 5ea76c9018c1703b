package org.corelocker.android

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import okhttp3.OkHttpClient
import org.corelocker.core.ClockReading
import org.corelocker.core.Device
import org.corelocker.core.ErrorCode
import org.corelocker.core.FakeService
import org.corelocker.core.LicenseFiles
import org.corelocker.core.Publisher
import org.corelocker.core.Purchase
import org.corelocker.core.RetryPolicy
import org.corelocker.core.ServiceClient
import org.corelocker.core.UnlockClient
import org.corelocker.core.UnlockResult
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Which former key an unlock names, and which keys stay in the Keystore: the real Keystore code over a fake provider. */
internal class FormerKeyTest {
    @TempDir
    lateinit var folder: File

    private val service = FakeService()
    private val publisher = Publisher()
    private val bundle = publisher.bundle("4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f", 3, listOf("free", "plus", "full"))
    private val keys = Api31DeviceKeys(false)

    @BeforeEach
    fun install() = FakeKeystore.install()

    @AfterEach
    fun stop() = service.close()

    /** The app in a new process. */
    private fun client(
        attempts: Int = 4,
        pause: () -> Unit = {},
    ): UnlockClient {
        val config = service.config(publisher)
        val files = LicenseFiles(folder)
        val device = Device(Api31DeviceKeys(false), files, files) { ClockReading(FakeService.NOW, 0, "boot") }
        val http = ServiceClient(config.service, OkHttpClient(), RetryPolicy(attempts)) { pause() }
        return UnlockClient(config, bundle, device, http, Dispatchers.IO)
    }

    private fun unlock(
        client: UnlockClient = client(),
        tier: String = "full",
    ): UnlockResult = runBlocking { client.unlock(Purchase.grant("a.b.c"), tier) }

    private fun code(result: UnlockResult) = (result as UnlockResult.Refused).error.code

    private fun kept() = FakeKeystore.pairs.size

    private fun script(vararg answers: String) {
        service.script += answers
    }

    private fun assertUnlocked(result: UnlockResult) {
        assertTrue(result is UnlockResult.Unlocked, "$result")
        assertEquals(service.keys().last(), (result as UnlockResult.Unlocked).license.device)
        // Nothing of what came before is left.
        assertNotNull(keys.find(service.keys().last()))
        assertEquals(1, kept())
        assertEquals(emptyList<String>(), LicenseFiles(folder).allAttempts())
    }

    @Test
    fun `a try whose answer got lost hands its place to the next one`() {
        script("lost", "proxy", "timeout")
        assertUnlocked(unlock())
        val made = service.keys()
        assertEquals(4, made.toSet().size)
        assertEquals(listOf(null, made[0], made[1], made[2]), service.named())
    }

    @Test
    fun `the keys of unlocks without an answer outlive the process`() {
        script("lost", "lost")
        assertEquals(ErrorCode.SERVICE_UNREACHABLE, code(unlock(client(attempts = 2))))
        assertEquals(2, kept())
        assertEquals(service.keys(), LicenseFiles(folder).allAttempts())
        assertUnlocked(unlock())
        assertEquals(service.keys()[1], service.named()[2])
    }

    @Test
    fun `another tier takes over the place of the license that is held`() {
        assertUnlocked(unlock(tier = "plus"))
        assertUnlocked(unlock())
        assertEquals(listOf(null, service.keys()[0]), service.named())
    }

    @Test
    fun `where one key holds no place, the next one is named`() {
        assertUnlocked(unlock(tier = "plus"))
        script("lost", "lost", "device-limit", "device-limit")
        assertEquals(ErrorCode.SERVICE_UNREACHABLE, code(unlock(client(attempts = 2))))
        assertUnlocked(unlock())
        val made = service.keys()
        assertEquals(listOf(null, made[0], made[1], made[2], made[1], made[0]), service.named())
    }

    @Test
    fun `a purchase without a place is refused in the end, and what is held stays`() {
        assertUnlocked(unlock(tier = "plus"))
        script("lost", "device-limit", "device-limit")
        assertEquals(ErrorCode.SERVICE_UNREACHABLE, code(unlock(client(attempts = 1))))
        val client = client()
        assertEquals(ErrorCode.DEVICE_LIMIT, code(unlock(client)))
        assertEquals(4, service.asked.size)
        assertEquals(service.keys()[0], client.license().device)
        assertEquals(1, kept())
    }

    @Test
    fun `a key that was refused for certain is not named`() {
        assertUnlocked(unlock(tier = "plus"))
        script("overloaded", "attestation-refused")
        assertEquals(ErrorCode.ATTESTATION_REFUSED, code(unlock()))
        val first = service.keys()[0]
        assertEquals(listOf(null, first, first), service.named())
        assertEquals(1, kept())
        assertEquals(emptyList<String>(), LicenseFiles(folder).allAttempts())
    }

    @Test
    fun `an unlock goes on without a key that cannot be used any more`() {
        script("lost")
        unlock(client(attempts = 1))
        FakeKeystore.invalidated =
            FakeKeystore.pairs.values
                .single()
                .private
        assertUnlocked(unlock())
        assertEquals(listOf(null, null), service.named())
    }

    @Test
    fun `an unlock goes on without a key that is gone`() {
        script("lost")
        unlock(client(attempts = 1))
        FakeKeystore.pairs.clear()
        assertUnlocked(unlock())
        assertEquals(listOf(null, null), service.named())
    }

    @Test
    fun `a call that is cancelled leaves its key for the next one`() {
        script("lost")
        runBlocking {
            lateinit var call: Deferred<UnlockResult>
            call = async(Dispatchers.Default, CoroutineStart.LAZY) { client { call.cancel() }.unlock(Purchase.grant("a.b.c")) }
            assertThrows(CancellationException::class.java) { runBlocking { call.await() } }
        }
        assertEquals(1, kept())
        assertUnlocked(unlock())
        assertEquals(listOf(null, service.keys()[0]), service.named())
    }

    @Test
    fun `a license that is forgotten takes the keys along`() {
        script("lost")
        unlock(client(attempts = 1))
        runBlocking { client().forget() }
        assertEquals(0, kept())
        assertUnlocked(unlock())
        assertNull(service.named().last())
    }

    @Test
    fun `keeps eight keys at most, the newest ones`() {
        script(*Array(10) { "lost" })
        // A single call gives up before it has tried ten times: its waits double.
        repeat(2) { unlock(client(attempts = 5)) }
        assertEquals(10, service.keys().size)
        assertEquals(service.keys().takeLast(8), LicenseFiles(folder).allAttempts())
        assertEquals(8, kept())
    }

    @Test
    fun `a challenge without the secret is no answer of the service`() {
        script("lost")
        unlock(client(attempts = 1))
        service.forgetsSecret = true
        assertEquals(ErrorCode.SERVICE_PROTOCOL, code(unlock()))
        assertEquals(1, service.asked.size)
        assertEquals(1, kept())
    }
}
