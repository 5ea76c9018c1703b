package org.corelocker.executorch

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import okhttp3.OkHttpClient
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import org.corelocker.core.RetryPolicy
import org.corelocker.core.UnlockResult
import org.corelocker.core.text
import org.corelocker.executorch.FaultyLine.Fault
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.time.Instant
import java.util.UUID
import java.util.concurrent.TimeUnit
import kotlin.time.Duration.Companion.milliseconds

/** The real service behind a line that is slow, drops connections, or is busy; and rights that shrink. */
internal class FaultsTest : PhoneTest() {
    private val config = Json.parseToJsonElement(world.config).jsonObject
    private val line = FaultyLine(config.text("service"))
    private val behindTheLine = JsonObject(config + ("service" to JsonPrimitive(line.url))).toString()

    @AfterEach
    fun stop() = line.close()

    /** The state while it waits before each new try, for an unlock that goes well in the end. */
    private fun waits(vararg faults: Fault): List<LockState.Unlocking> {
        line.faults += faults
        // An app that gives up on an answer after a second.
        val http = OkHttpClient.Builder().callTimeout(1, TimeUnit.SECONDS).build()
        val client = client(config = behindTheLine, http = http, retry = RetryPolicy(attempts = 10, firstWait = 400.milliseconds))
        val seen = LinkedHashSet<LockState>()
        runBlocking(Dispatchers.Default) {
            val watch = launch { client.state.collect(seen::add) }
            val result = client.unlock(Purchase.grant(world.grant()))
            watch.cancel()
            log(client, result)
            assertTrue(result is UnlockResult.Unlocked, "$result")
        }
        assertEquals("full", (client.state.value as LockState.Unlocked).tier)
        assertArrayEquals(original, run(client))
        return seen.filterIsInstance<LockState.Unlocking>().filter { it.waitingUntil != null }
    }

    @Test
    fun `a line that drops connections, also with the license on it`() {
        val waits = waits(Fault.DROP, Fault.NONE, Fault.LOSE_ANSWER, Fault.LOSE_ANSWER)
        assertEquals(List(3) { ErrorCode.SERVICE_UNREACHABLE }, waits.map { it.cause })
        assertEquals(listOf(2, 3, 4), waits.map { it.attempt })
    }

    @Test
    fun `a service that is slow`() {
        assertEquals(listOf(ErrorCode.SERVICE_UNREACHABLE), waits(Fault.SLOW).map { it.cause })
    }

    @Test
    fun `a service that is busy, and says for how long`() {
        val before = Instant.now()
        val wait = waits(Fault.NONE, Fault.BUSY).single()
        assertEquals(ErrorCode.SERVICE_BUSY, wait.cause)
        assertTrue(checkNotNull(wait.waitingUntil) >= before.plusSeconds(1))
        // Who asks for more patience than the app has is told at once.
        line.faults += Fault.BUSY_FOR_LONG
        val second = client(folder.resolve("second"), behindTheLine)
        assertEquals(ErrorCode.SERVICE_BUSY, code(unlock(second)))
        assertEquals(LockState.Refused(ErrorCode.SERVICE_BUSY), second.state.value)
        assertTrue(unlock(second) is UnlockResult.Unlocked)
    }

    @Test
    fun `a license that is downgraded restores less`() {
        val client = client()
        val purchase = "purchase" to UUID.randomUUID().toString()
        // The right to all of it ends soon, that to a part of it stays.
        val end = now() + 4
        assertTrue(unlock(client, "plus", world.grant(purchase, "product" to "plus")) is UnlockResult.Unlocked)
        val plus = run(client)
        assertTrue(unlock(client, "full", world.grant(purchase, "product" to "full", "until" to end)) is UnlockResult.Unlocked)
        assertArrayEquals(original, run(client))
        runBlocking {
            while (now() <= end) delay(100)
            val result = client.renew()
            log(client, result)
            assertEquals("plus", (result as UnlockResult.Unlocked).license.tier)
        }
        assertEquals("plus", (client.state.value as LockState.Unlocked).tier)
        assertArrayEquals(plus, run(client))
        assertArrayEquals(plus, run(client()))
    }
}
