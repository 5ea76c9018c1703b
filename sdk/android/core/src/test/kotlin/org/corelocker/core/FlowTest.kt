package org.corelocker.core

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.double
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import mockwebserver3.SocketEffect
import okhttp3.OkHttpClient
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.TestFactory
import java.security.Signature
import java.util.Base64
import java.util.HexFormat
import kotlin.time.Duration
import kotlin.time.DurationUnit

/** A device's talk with the service against flow.json: each request, each wait, the verdict, and what is held afterwards. */
internal class FlowTest {
    private val file = Vectors.load("flow.json")
    private val config = file.child("config")
    private val device = SoftwareKey.of(file.child("device_key"))
    private val http = OkHttpClient()
    private val publisher = Publisher()
    private val bundleId = file.child("bundle").text("id")

    @TestFactory
    fun flows() = Vectors.tests(file, run = ::run)

    private fun run(vector: JsonObject) {
        val steps = vector.objects("steps")
        MockWebServer().use { server ->
            steps.forEach { server.enqueue(answer(it)) }
            server.start()
            val keys = SoftwareKeys(device, attestsRenewals = vector.text("operation") == "renew")
            val store = MemoryStore()
            vector.textOrNull("held")?.let { store.save(bundleId, it) }
            val waits = ArrayList<Duration>()
            val client = client("http://${server.hostName}:${server.port}", keys, store, waits)
            val result =
                runBlocking {
                    if (vector.text("operation") == "unlock") client.unlock(purchase(vector), vector.text("tier")) else client.renew()
                }
            checkResult(vector, result, client.state.value)
            checkRequests(steps, server, keys)
            checkWaits(vector, waits)
            checkHeld(vector, store)
        }
    }

    private fun client(
        service: String,
        keys: DeviceKeys,
        store: MemoryStore,
        waits: MutableList<Duration>,
    ): UnlockClient {
        val app = appConfig(config, service, publisher.thumbprint)
        val bundle = file.child("bundle")
        val tiers = bundle.list("tiers").map { it.jsonPrimitive.content }
        val reading = ClockReading(file.number("now"), 1000, "boot")
        return UnlockClient(
            app,
            publisher.bundle(bundleId, bundle.number("model_version"), tiers),
            Device(keys, store, store) { reading },
            ServiceClient(app.service, http, RetryPolicy(), waits::add),
            Dispatchers.IO,
        )
    }

    private fun answer(step: JsonObject): MockResponse {
        val builder = MockResponse.Builder()
        if (!step["answer"].isGiven()) return builder.onResponseStart(SocketEffect.CloseSocket()).build()
        val answer = step.child("answer")
        builder.code(answer.number("status").toInt()).body(answer.text("body"))
        answer.child("headers").forEach { (name, value) -> builder.setHeader(name, value.jsonPrimitive.content) }
        return builder.build()
    }

    private fun purchase(vector: JsonObject): Purchase {
        val json = vector.child("purchase")
        return Purchase(json, json.textOrNull("token") ?: json.text("transaction"))
    }

    private fun checkResult(
        vector: JsonObject,
        result: UnlockResult,
        state: LockState,
    ) {
        when (result) {
            is UnlockResult.Unlocked -> {
                assertEquals(vector.text("expect"), "ok")
                assertEquals(result.license.tier, (state as LockState.Unlocked).tier)
            }

            is UnlockResult.Refused -> {
                assertEquals(vector.text("expect"), result.error.code.word)
                assertEquals(vector.textOrNull("retry_at")?.toLong(), result.error.retryAt?.epochSecond)
                if (vector["holds"].isGiven()) {
                    assertTrue(state is LockState.Unlocked || state is LockState.Expired, "$state")
                } else {
                    assertTrue(state is LockState.Refused || state is LockState.Revoked, "$state")
                }
            }
        }
    }

    private fun checkRequests(
        steps: List<JsonObject>,
        server: MockWebServer,
        keys: SoftwareKeys,
    ) {
        assertEquals(steps.size, server.requestCount)
        for (step in steps) {
            val request = server.takeRequest()
            assertEquals(step.text("path"), request.url.encodedPath)
            var body = StrictJson.parse(checkNotNull(request.body).toByteArray())
            if ("digest" in step) {
                checkAttestation(step, body.child("attestation"), keys)
                body = JsonObject(body - "attestation")
            }
            assertEquals(step["body"], body)
        }
    }

    private fun checkAttestation(
        step: JsonObject,
        attestation: JsonObject,
        keys: SoftwareKeys,
    ) {
        if ("proof" in step) {
            assertEquals(mapOf("format" to JsonPrimitive("device-key"), "proof" to step["proof"]), attestation.toMap())
            return
        }
        assertEquals("development", attestation.text("format"))
        val verifier = Signature.getInstance("SHA256withECDSA")
        verifier.initVerify(keys.attestationKey.public)
        verifier.update(SoftwareKeys.signedBytes(step.hex("digest")))
        assertTrue(verifier.verify(Base64.getUrlDecoder().decode(attestation.text("signature"))))
    }

    private fun checkWaits(
        vector: JsonObject,
        waits: List<Duration>,
    ) {
        val allowed = vector.list("waits").map { pair -> pair.jsonArray.map { it.jsonPrimitive.double } }
        assertEquals(allowed.size, waits.size)
        for ((wait, bounds) in waits zip allowed) assertTrue(wait.toDouble(DurationUnit.SECONDS) in bounds[0]..bounds[1], "$wait")
    }

    private fun checkHeld(
        vector: JsonObject,
        store: MemoryStore,
    ) {
        val keys = appConfig(config, "https://unlock.example.com", publisher.thumbprint).licenseKeys
        val held = store.load(bundleId)?.let { License.read(it, keys) }
        assertEquals(vector.textOrNull("holds"), held?.id)
        if (vector.text("expect") == "ok") {
            assertEquals(file.text("content_key"), HexFormat.of().formatHex(checkNotNull(held).open(device).bytes))
        }
    }
}
