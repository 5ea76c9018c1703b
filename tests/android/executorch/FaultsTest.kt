package org.corelocker.executorch

import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import okhttp3.OkHttpClient
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.core.RetryPolicy
import org.corelocker.core.UnlockClient
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

/** The real service behind a line that is slow, drops connections, or is busy; and rights that shrink. */
internal class FaultsTest : PhoneTest() {
    private val config = Json.parseToJsonElement(world.config).jsonObject
    private val line = FaultyLine(config.text("service"))
    private val behindTheLine = JsonObject(config + ("service" to JsonPrimitive(line.url))).toString()

    @AfterEach
    fun stop() = line.close()

    /** The state while it waits before each new try, for an unlock that goes well in the end. */
    private fun waits(
        vararg faults: Fault,
        http: OkHttpClient = OkHttpClient(),
    ): List<LockState.Unlocking> {
        line.faults += faults
        val seen = ArrayList<LockState>()
        lateinit var client: UnlockClient
        client =
            client(config = behindTheLine, http = http, retry = RetryPolicy(attempts = 10)) {
                seen += client.state.value
                delay(it)
            }
        assertTrue(unlock(client) is UnlockResult.Unlocked)
        assertEquals("full", (client.state.value as LockState.Unlocked).tier)
        assertArrayEquals(original, run(client))
        return seen.map { it as LockState.Unlocking }
    }

    @Test
    fun `a line that drops connections, also with the license on it`() {
        val waits = waits(Fault.DROP, Fault.NONE, Fault.LOSE_ANSWER, Fault.LOSE_ANSWER)
        assertEquals(List(3) { ErrorCode.SERVICE_UNREACHABLE }, waits.map { it.cause })
        assertEquals(listOf(2, 3, 4), waits.map { it.attempt })
    }

    @Test
    fun `a service that is slower than an app waits`() {
        val http = OkHttpClient.Builder().callTimeout(FaultyLine.DELAY_SECONDS / 2, TimeUnit.SECONDS).build()
        val waits = waits(Fault.SLOW, http = http)
        assertEquals(setOf(ErrorCode.SERVICE_UNREACHABLE), waits.map { it.cause }.toSet())
        // An app that waits longer gets its answer.
        assertEquals(emptyList<LockState>(), waits(Fault.SLOW))
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
        assertTrue(unlock(client, "plus", world.grant(purchase, "product" to "plus")) is UnlockResult.Unlocked)
        val plus = run(client)
        // The right to all of it ends soon, that to a part of it stays.
        val end = now() + 6
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
