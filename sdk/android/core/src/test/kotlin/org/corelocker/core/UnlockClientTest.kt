package org.corelocker.core

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.yield
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import mockwebserver3.SocketEffect
import okhttp3.OkHttpClient
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.time.Instant
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlin.time.measureTime

/** What an app sees: states over time, offline use, cancellation. The licenses are those of flow.json. */
internal class UnlockClientTest {
    private val file = Vectors.load("flow.json")
    private val device = SoftwareKey.of(file.child("device_key"))
    private val publisher = Publisher()
    private val server = MockWebServer().apply { start() }
    private val store = MemoryStore()
    private val keys = SoftwareKeys(device)
    private val bundleId = file.child("bundle").text("id")
    private val purchase = Purchase.grant("header.claims.signature")
    private val license = License.read(vector("renew").text("held"), config().licenseKeys)
    private val issued = license.issuedAt.epochSecond
    private val end = checkNotNull(license.expiresAt).epochSecond
    private var now = file.number("now")

    @AfterEach
    fun stop() = server.close()

    private fun vector(name: String) = file.objects("vectors").first { it.text("name") == name }

    private fun config(grace: Long = 0) =
        appConfig(file.child("config"), "http://${server.hostName}:${server.port}", publisher.thumbprint, grace)

    private fun bundle(of: Publisher = publisher) =
        of.bundle(bundleId, file.child("bundle").number("model_version"), listOf("free", "plus", "full"))

    private fun client(
        grace: Long = 0,
        keys: DeviceKeys = this.keys,
        marks: ClockMarkStore = store,
        bundle: KeyBundle = bundle(),
        pause: suspend (Duration) -> Unit = {},
    ): UnlockClient {
        val config = config(grace)
        val service = ServiceClient(config.service, OkHttpClient(), RetryPolicy(), pause)
        val device = Device(keys, store, marks) { ClockReading(now, 1000, "boot") }
        return UnlockClient(config, bundle, device, service, Dispatchers.IO)
    }

    private fun hold() = store.save(bundleId, vector("renew").text("held"))

    private fun answer(
        step: Int,
        of: String = "unlock",
    ) {
        val answer = vector(of).objects("steps")[step].child("answer")
        server.enqueue(
            MockResponse
                .Builder()
                .code(answer.number("status").toInt())
                .body(answer.text("body"))
                .build(),
        )
    }

    private fun breakLine() = server.enqueue(MockResponse.Builder().onResponseStart(SocketEffect.CloseSocket()).build())

    @Test
    fun `what is held counts without a network, until it ends`() {
        hold()
        server.close()
        val client = client(grace = 100)
        assertEquals(LockState.Unlocked("full", license.expiresAt), client.state.value)
        assertEquals(license.id, client.license().id)
        runBlocking {
            assertEquals(LockState.Unlocked("full", license.expiresAt), client.refresh())
            now = checkNotNull(license.renewAt).epochSecond
            assertEquals(LockState.OfflineUntil("full", Instant.ofEpochSecond(end + 100)), client.refresh())
            now = end
            assertEquals(LockState.OfflineUntil("full", Instant.ofEpochSecond(end + 100)), client.refresh())
            now = end + 100
            assertEquals(LockState.Expired, client.refresh())
        }
        assertEquals("license-expired", outcome { client.license() })
    }

    @Test
    fun `many threads may read the license at once`(
        @TempDir folder: File,
    ) {
        hold()
        val client = client(marks = LicenseFiles(folder))
        runBlocking(Dispatchers.IO) {
            val ids = List(8) { async { List(50) { client.license().id } } }.awaitAll().flatten()
            assertEquals(setOf(license.id), ids.toSet())
        }
    }

    @Test
    fun `setting the clock back gains nothing`() {
        hold()
        val client = client()
        now = end
        assertEquals("license-expired", outcome { client.license() })
        now = issued
        assertEquals("license-clock", outcome { client.license() })
        now = end - 3600
        assertEquals("license-expired", outcome { client.license() })
        assertEquals(LockState.Expired, client().state.value)
    }

    @Test
    fun `a damaged record of the time needs the service`() {
        hold()
        val damaged =
            object : ClockMarkStore by store {
                var isDamaged = true

                override fun loadMark(): ClockMark? {
                    if (isDamaged) throw CoreLockerException(ErrorCode.LICENSE_CLOCK, "damaged")
                    return store.loadMark()
                }

                override fun removeMark() {
                    isDamaged = false
                }
            }
        val client = client(marks = damaged)
        assertEquals(LockState.Refused(ErrorCode.LICENSE_CLOCK), client.state.value)
        answer(0)
        answer(1)
        runBlocking { assertTrue(client.unlock(purchase) is UnlockResult.Unlocked) }
        assertTrue(client.state.value is LockState.Unlocked)
    }

    @Test
    fun `the state says that it waits, and for how long`() {
        val seen = ArrayList<LockState>()
        lateinit var client: UnlockClient
        client =
            client {
                seen.add(client.state.value)
                assertTrue(it <= 1.seconds)
            }
        assertEquals(LockState.Locked, client.state.value)
        breakLine()
        answer(0)
        answer(1, "busy-once")
        answer(0)
        answer(1)
        runBlocking { assertTrue(client.unlock(purchase) is UnlockResult.Unlocked) }
        val waiting = seen.map { it as LockState.Unlocking }
        assertEquals(listOf(2, 3), waiting.map { it.attempt })
        assertEquals(listOf(ErrorCode.SERVICE_UNREACHABLE, ErrorCode.OVERLOADED), waiting.map { it.cause })
        assertTrue(waiting.all { checkNotNull(it.waitingUntil) > Instant.now().minusSeconds(60) })
        assertEquals(setOf(device.thumbprint), keys.kept)
    }

    @Test
    fun `hardware that is busy is asked again, with a new challenge`() {
        var failures = 1
        val busy =
            object : DeviceKeys by keys {
                override fun attest(request: UnlockRequest): AttestedKey {
                    if (failures-- > 0) throw CoreLockerException(ErrorCode.DEVICE_BUSY, "not now")
                    return keys.attest(request)
                }
            }
        val seen = ArrayList<LockState>()
        lateinit var client: UnlockClient
        client = client(keys = busy) { seen.add(client.state.value) }
        answer(0)
        answer(0)
        answer(1)
        runBlocking { assertTrue(client.unlock(purchase) is UnlockResult.Unlocked) }
        assertEquals(ErrorCode.DEVICE_BUSY, (seen.single() as LockState.Unlocking).cause)
        failures = 10
        repeat(10) { answer(0) }
        val refused = runBlocking { client.unlock(purchase) } as UnlockResult.Refused
        assertEquals(ErrorCode.DEVICE_BUSY, refused.error.code)
        assertEquals(3 + RetryPolicy().attempts, server.requestCount)
    }

    @Test
    fun `a call that is cancelled stops at once and changes nothing`() {
        val client = client()
        answer(0)
        server.enqueue(MockResponse.Builder().onResponseStart(SocketEffect.Stall).build())
        val took =
            measureTime {
                runBlocking {
                    val call = async(Dispatchers.Default) { client.unlock(purchase) }
                    while (server.requestCount < 2) yield()
                    assertTrue(client.state.first() is LockState.Unlocking)
                    call.cancel()
                    assertThrows(CancellationException::class.java) { runBlocking { call.await() } }
                }
            }
        assertTrue(took < 5.seconds, "$took")
        assertEquals(LockState.Locked, client.state.value)
        assertEquals(emptyList<String>(), store.all())
        assertEquals(emptySet<String>(), keys.kept)
    }

    @Test
    fun `what is revoked goes, and the state says why`() {
        hold()
        val client = client()
        answer(0, "renew-by-device-key")
        answer(1, "renew-license-revoked")
        runBlocking { client.renew() }
        assertEquals(LockState.Revoked(ErrorCode.LICENSE_REVOKED), client.state.value)
        assertEquals("not-unlocked", outcome { client.license() })
        assertEquals(emptySet<String>(), keys.kept)
    }

    @Test
    fun `renews when two thirds are over, and not before`() {
        hold()
        val client = client()
        runBlocking {
            client.refresh()
            assertEquals(0, server.requestCount)
            now = checkNotNull(license.renewAt).epochSecond
            answer(0, "renew-by-device-key")
            answer(1, "renew-by-device-key")
            client.refresh()
        }
        assertEquals(2, server.requestCount)
        assertEquals(vector("renew-by-device-key").text("holds"), client.license().id)
    }

    @Test
    fun `a key that is gone leaves nothing to open the license with`() {
        hold()
        val stranger = SoftwareKeys(SoftwareKey(newKeyPair()))
        assertEquals(LockState.Refused(ErrorCode.LICENSE_DEVICE), client(keys = stranger).state.value)
    }

    @Test
    fun `refuses a bundle of another publisher, and a tier that is none`() {
        val client = client()
        val result = runBlocking { client.unlock(purchase, "gold") } as UnlockResult.Refused
        assertEquals(ErrorCode.BUNDLE_MISMATCH, result.error.code)
        assertEquals(0, server.requestCount)
        assertEquals("bundle-publisher", outcome { client(bundle = bundle(Publisher())) })
    }
}
