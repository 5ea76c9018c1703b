package org.corelocker.executorch

import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import org.corelocker.android.DevelopmentKeys
import org.corelocker.core.DeviceKey
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.RetryPolicy
import org.corelocker.core.UnlockClient
import org.corelocker.core.UnlockRequest
import org.corelocker.core.UnlockResult
import org.corelocker.core.text
import org.corelocker.executorch.FaultyLine.Fault
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.io.File
import java.util.UUID
import kotlin.time.Duration.Companion.milliseconds

/** A purchase with one place left, and a phone whose device key is new in each unlock, as Android's is. */
internal class PlacesTest : PhoneTest() {
    private val config = Json.parseToJsonElement(world.config).jsonObject
    private val line = FaultyLine(config.text("service"))
    private val behindTheLine = JsonObject(config + ("service" to JsonPrimitive(line.url))).toString()
    private val purchase = UUID.randomUUID().toString()
    private val keys by lazy { NewKeys(world.developmentKey, folder) }

    @AfterEach
    fun stop() = line.close()

    private fun phone(attempts: Int) =
        client(config = behindTheLine, keys = keys, retry = RetryPolicy(attempts, firstWait = 1.milliseconds))

    private fun grant() = world.grant("purchase" to purchase)

    private fun takePlaces(count: Int) = List(count) { unlock(client(File(folder, UUID.randomUUID().toString())), grant = grant()) }

    private fun assertUnlockedOnTheLastPlace(client: UnlockClient) {
        assertArrayEquals(original, run(client))
        assertEquals(ErrorCode.DEVICE_LIMIT, code(takePlaces(1).single()))
        assertEquals(listOf(client.license().device), keys.thumbprints())
        // The place is that of the license: it is renewed.
        assertTrue(runBlocking { client.renew() } is UnlockResult.Unlocked)
    }

    @Test
    fun `an answer that gets lost costs no place`() {
        takePlaces(2)
        line.faults += listOf(Fault.NONE, Fault.LOSE_ANSWER, Fault.NONE, Fault.LOSE_ANSWER)
        val client = phone(attempts = 3)
        assertTrue(unlock(client, grant = grant()) is UnlockResult.Unlocked)
        assertUnlockedOnTheLastPlace(client)
    }

    @Test
    fun `nor does one that got lost before the app was started again`() {
        takePlaces(2)
        line.faults += listOf(Fault.NONE, Fault.LOSE_ANSWER)
        assertEquals(ErrorCode.SERVICE_UNREACHABLE, code(unlock(phone(attempts = 1), grant = grant())))
        assertEquals(ErrorCode.DEVICE_LIMIT, code(takePlaces(1).single()))
        val client = phone(attempts = 1)
        assertTrue(unlock(client, grant = grant()) is UnlockResult.Unlocked)
        assertUnlockedOnTheLastPlace(client)
    }

    @Test
    fun `another tier of the same purchase costs no place`() {
        takePlaces(2)
        val client = phone(attempts = 1)
        assertTrue(unlock(client, "plus", grant()) is UnlockResult.Unlocked)
        val plus = client.license().device
        assertTrue(unlock(client, "full", grant()) is UnlockResult.Unlocked)
        assertTrue(client.license().device != plus)
        assertUnlockedOnTheLastPlace(client)
    }

    @Test
    fun `a request that the service never got costs no place`() {
        takePlaces(2)
        val client = phone(attempts = 2)
        assertTrue(unlock(client, "plus", grant()) is UnlockResult.Unlocked)
        // The next try names a key that holds no place, and the one after that the key of the license.
        line.faults += listOf(Fault.NONE, Fault.DROP)
        assertTrue(unlock(client, "full", grant()) is UnlockResult.Unlocked)
        assertUnlockedOnTheLastPlace(client)
    }
}

/** A new key for each request, each in a folder of its own; the development key vouches for them. */
private class NewKeys(
    private val pem: String,
    private val folder: File,
) : DeviceKeys {
    override val makesKeyForEachUnlock get() = true

    private fun folders() = folder.listFiles { file -> file.name.startsWith("key-") }.orEmpty().toList()

    private fun thumbprint(folder: File) = DevelopmentKeys(pem, folder).attest(NO_REQUEST).key.thumbprint

    fun thumbprints() = folders().map(::thumbprint)

    override fun find(thumbprint: String): DeviceKey? = folders().firstNotNullOfOrNull { DevelopmentKeys(pem, it).find(thumbprint) }

    override fun attest(request: UnlockRequest) = DevelopmentKeys(pem, File(folder, "key-${UUID.randomUUID()}")).attest(request)

    override fun keepOnly(thumbprints: Set<String>) = folders().filter { thumbprint(it) !in thumbprints }.forEach { it.deleteRecursively() }

    private companion object {
        val NO_REQUEST = UnlockRequest("none", "none", "none", "none", "none")
    }
}
