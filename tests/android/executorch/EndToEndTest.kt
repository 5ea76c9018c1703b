package org.corelocker.executorch

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.yield
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import org.corelocker.core.RetryPolicy
import org.corelocker.core.UnlockClient
import org.corelocker.core.UnlockResult
import org.corelocker.core.outcome
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor
import java.io.File
import java.util.UUID
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

/** From the purchase to the model's output: Kotlin, the real unlock service, JNI, the C core and ExecuTorch. */
@OptIn(CoreLockerInternal::class)
internal class EndToEndTest : PhoneTest() {
    @Test
    fun `a purchase brings the original back, bit for bit`() {
        val client = client()
        assertEquals(LockState.Locked, client.state.value)
        val locked = run(client)
        assertTrue(isLocked(locked))
        assertTrue(unlock(client, "plus") is UnlockResult.Unlocked)
        assertEquals("plus", (client.state.value as LockState.Unlocked).tier)
        val plus = run(client)
        assertTrue(isLocked(plus) && !plus.contentEquals(locked))
        assertTrue(unlock(client) is UnlockResult.Unlocked)
        assertArrayEquals(original, run(client))
        assertArrayEquals(locked, run(client, upTo = "free"))
        assertArrayEquals(plus, run(client, upTo = "plus"))
        restore(client).use { restored ->
            val bytes = ByteArray(restored.buffer.remaining()).also(restored.buffer.duplicate()::get)
            assertArrayEquals(world.original.readBytes(), bytes)
            assertEquals(2, restored.tier)
        }
    }

    @Test
    fun `a locked and a restored module live side by side`() {
        val lockedFile = restore(client())
        LockedModule.of(lockedFile).use { locked ->
            assertThrows(IllegalStateException::class.java) { lockedFile.release() }
            LockedModule.of(restore(unlocked())).use { restored ->
                repeat(3) {
                    assertTrue(isLocked(forward(locked)))
                    assertArrayEquals(original, forward(restored))
                }
            }
        }
    }

    @Test
    fun `without the service the license still counts, also in a new process`() {
        val license = unlocked().license()
        world.stop()
        try {
            val offline = client(retry = RetryPolicy(attempts = 2, firstWait = 1.milliseconds))
            assertEquals(LockState.Unlocked("full", license.expiresAt), offline.state.value)
            assertArrayEquals(original, run(offline))
            ahead = checkNotNull(license.renewAt).epochSecond - now()
            runBlocking { assertEquals(LockState.OfflineUntil("full", checkNotNull(license.expiresAt)), offline.refresh()) }
            assertArrayEquals(original, run(offline))
            ahead = checkNotNull(license.expiresAt).epochSecond - now()
            runBlocking { assertEquals(LockState.Expired, offline.refresh()) }
            assertEquals("license-expired", outcome { offline.license() })
            assertTrue(isLocked(run(offline)))
            // Setting the clock back does not help.
            ahead = 0
            assertEquals("license-clock", outcome { client().license() })
            assertTrue(isLocked(run(client())))
        } finally {
            world.start()
        }
        // The mark stands at the license's end: a renewal with a right clock is behind it, one in the license's last hour is not.
        ahead = checkNotNull(license.expiresAt).epochSecond - 3600 - now()
        assertEquals(LockState.Expired, client().state.value)
    }

    @Test
    fun `a service that comes back is found`() {
        world.stop()
        val client = client(retry = RetryPolicy(attempts = 40, firstWait = 50.milliseconds, longestWait = 1000.seconds))
        val grant = world.grant()
        runBlocking {
            withTimeout(60.seconds) {
                val call = async(Dispatchers.Default) { client.unlock(Purchase.grant(grant)) }
                while ((client.state.value as? LockState.Unlocking)?.cause != ErrorCode.SERVICE_UNREACHABLE) yield()
                world.start()
                assertTrue(call.await() is UnlockResult.Unlocked)
            }
        }
        assertArrayEquals(original, run(client))
    }

    @Test
    fun `a license is of no use on a second device`() {
        unlocked()
        val second = File(folder, "second")
        client(second)
        for (file in checkNotNull(folder.listFiles { file -> file.name.endsWith(".jws") })) file.copyTo(File(second, file.name))
        assertEquals(LockState.Refused(ErrorCode.LICENSE_DEVICE), client(second).state.value)
        assertEquals("license-device", outcome { client(second).license() })
        assertTrue(isLocked(run(client(second))))
    }

    @Test
    fun `a purchase serves as many devices as it allows`() {
        val purchase = "purchase" to UUID.randomUUID().toString()
        val phones = List(World.DEVICES) { client(File(folder, "phone $it")) }
        for (phone in phones) assertTrue(unlock(phone, grant = world.grant(purchase)) is UnlockResult.Unlocked)
        val last = client(File(folder, "one more"))
        val refused = unlock(last, grant = world.grant(purchase)) as UnlockResult.Refused
        assertEquals(ErrorCode.DEVICE_LIMIT, refused.error.code)
        assertTrue(checkNotNull(refused.error.retryAt).epochSecond > now())
        assertEquals(LockState.Refused(ErrorCode.DEVICE_LIMIT), last.state.value)
        assertTrue(isLocked(run(last)))
        assertArrayEquals(original, run(phones.first()))
    }

    @Test
    fun `what was revoked is locked again at the next renewal`() {
        val client = unlocked()
        runBlocking {
            assertTrue(client.renew() is UnlockResult.Unlocked)
            assertArrayEquals(original, run(client))
            world.revoke(client.license().id)
            assertEquals(ErrorCode.LICENSE_REVOKED, code(client.renew()))
            assertEquals(LockState.Revoked(ErrorCode.LICENSE_REVOKED), client.state.value)
        }
        assertEquals("not-unlocked", outcome { client.license() })
        assertTrue(isLocked(run(client)))
    }

    @Test
    fun `refuses a tampered bundle, and another app`() {
        val bytes = world.bundle.readBytes()
        // A letter of the header, and a byte of the last section, whose encryption covers it.
        for ((at, expected) in listOf(20 to "bundle-header", bytes.size - 1 to "bundle-content-key")) {
            val tampered = File(folder, "tampered.clkey")
            tampered.writeBytes(bytes.copyOf().apply { set(at, (this[at].toInt() xor 1).toByte()) })
            val result =
                outcome {
                    client(bundle = tampered).let { client ->
                        assertTrue(unlock(client) is UnlockResult.Unlocked)
                        run(client)
                    }
                }
            assertEquals(expected, result)
        }
        val config = Json.parseToJsonElement(world.config).jsonObject
        val other = JsonObject(config + ("app" to JsonPrimitive("com.example.other"))).toString()
        val elsewhere = File(folder, "elsewhere")
        assertEquals(ErrorCode.APP_UNKNOWN, code(unlock(client(elsewhere, other))))
        unlocked(elsewhere)
        assertEquals(LockState.Refused(ErrorCode.LICENSE_AUDIENCE), client(elsewhere, other).state.value)
    }

    @Test
    fun `a purchase that is none changes nothing`() {
        val client = client()
        val result = runBlocking { client.unlock(Purchase.grant("not.a.grant")) }
        assertEquals(ErrorCode.PURCHASE_FORMAT, code(result))
        assertEquals(LockState.Refused(ErrorCode.PURCHASE_FORMAT), client.state.value)
        assertTrue(isLocked(run(client)))
    }

    @Test
    fun `ExecuTorch's refusals are typed, and a module can be used again after them`() {
        LockedModule.of(restore(client())).use { module ->
            assertArrayEquals(arrayOf("forward"), module.getMethods())
            assertThrows(LockedModuleException::class.java) { module.execute("backward") }
            assertThrows(LockedModuleException::class.java) { module.loadMethod("backward") }
            assertThrows(LockedModuleException::class.java) { module.forward() }
            assertThrows(LockedModuleException::class.java) { module.forward(EValue.from(1.0)) }
            val small = Tensor.fromBlob(FloatArray(3), longArrayOf(1, 3))
            assertThrows(LockedModuleException::class.java) { module.forward(EValue.from(small)) }
            assertThrows(IllegalArgumentException::class.java) { module.forward(EValue.from("text")) }
            module.loadMethod("forward")
            assertTrue(isLocked(forward(module)))
            module.close()
            module.destroy()
            assertThrows(IllegalStateException::class.java) { module.getMethods() }
        }
    }
}
