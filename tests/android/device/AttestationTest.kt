package org.corelocker.android

import android.security.keystore.KeyGenParameterSpec
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.put
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import org.corelocker.core.ClockReading
import org.corelocker.core.Device
import org.corelocker.core.MemoryStore
import org.corelocker.core.Publisher
import org.corelocker.core.Purchase
import org.corelocker.core.UnlockClient
import org.corelocker.core.Vectors
import org.corelocker.core.appConfig
import org.corelocker.core.child
import org.corelocker.core.list
import org.corelocker.core.text
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import java.io.File
import java.security.PublicKey
import java.util.Base64
import java.util.HexFormat

/** What a phone sends is accepted by the service's own verifier under the production policy, with the tests' authority. */
internal class AttestationTest {
    private val hex = HexFormat.of()

    private fun chain(answer: JsonObject) = answer.list("chain").map { hex.parseHex(it.jsonPrimitive.content) }

    /** What the tests' authority certifies. */
    private fun forge(
        spec: KeyGenParameterSpec,
        key: PublicKey,
    ): List<ByteArray> {
        val asked =
            buildJsonObject {
                put("do", "chain")
                put("challenge", hex.formatHex(spec.attestationChallenge))
                put("key", hex.formatHex(key.encoded))
            }
        return chain(ask(asked))
    }

    /** The body of the unlock request that the client sends, from a phone whose hardware gives this chain. */
    private fun sent(certify: (KeyGenParameterSpec, PublicKey) -> List<ByteArray> = ::forge): JsonObject {
        FakeKeystore.install()
        FakeKeystore.chain = certify
        val publisher = Publisher()
        val store = MemoryStore()
        return MockWebServer().use { server ->
            server.start()
            server.enqueue(
                MockResponse
                    .Builder()
                    .code(201)
                    .body("""{"challenge": "challenge-1", "expires_at": 1}""")
                    .build(),
            )
            val refusal = """{"type": "urn:corelocker:problem:attestation-refused", "title": "Attestation refused"}"""
            server.enqueue(
                MockResponse
                    .Builder()
                    .code(401)
                    .body(refusal)
                    .build(),
            )
            val config = JsonObject(Vectors.load("flow.json").child("config") + ("app" to JsonPrimitive("com.example.app")))
            val app = appConfig(config, "http://${server.hostName}:${server.port}", publisher.thumbprint)
            val bundle = publisher.bundle("4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f", 1, listOf("free", "full"))
            val device = Device(Api31DeviceKeys(false), store, store) { ClockReading(1_800_000_000, 0, "boot") }
            runBlocking { UnlockClient(app, bundle, device).unlock(Purchase.googlePlay("scanner_full", "a-token")) }
            server.takeRequest()
            // The key of a call that was refused goes.
            assertTrue(FakeKeystore.pairs.isEmpty())
            Json.parseToJsonElement(checkNotNull(server.takeRequest().body).utf8()).jsonObject
        }
    }

    private fun verdict(request: JsonObject): String? {
        val asked = JsonObject(mapOf("do" to JsonPrimitive("verify"), "request" to request))
        return ask(asked).getValue("reason").jsonPrimitive.let { if (it.isString) it.content else null }
    }

    private fun JsonObject.with(
        name: String,
        value: JsonElement,
    ) = JsonObject(this + (name to value))

    @Test
    fun `is accepted, and nothing of it can be changed`() {
        val request = sent()
        assertNull(verdict(request))
        val purchase = request.child("purchase")
        assertEquals("google-play", purchase.text("provider"))
        assertEquals("product", purchase.text("kind"))
        val other = sent()
        assertNull(verdict(other))
        val changed =
            listOf(
                request.with("tier", JsonPrimitive("plus")),
                request.with("challenge", JsonPrimitive("challenge-2")),
                request.with("bundle", JsonPrimitive("4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e60")),
                request.with("app", JsonPrimitive("com.example.other")),
                request.with("purchase", purchase.with("token", JsonPrimitive("b-token"))),
                request.with("device_key", other.getValue("device_key")),
            )
        for (body in changed) assertNotNull(verdict(body))
    }

    /** A chain of a real phone, as others have recorded it: its level, or its challenge. */
    private class Recorded(
        val name: String,
        val chain: List<ByteArray>,
        val level: String? = null,
        val challenge: ByteArray? = null,
    )

    private fun recorded(): List<Recorded> {
        val others = Vectors.folder.resolve("attestation/others")
        val pixel3 =
            files(others.resolve("android/android_keyattestation/testdata/blueline/sdk28"), ".pem").map { file ->
                val level = if (file.name.startsWith("SB")) "STRONGBOX" else "TRUSTED_ENVIRONMENT"
                Recorded(
                    file.name,
                    Regex("-----BEGIN CERTIFICATE-----([^-]*)")
                        .findAll(file.readText())
                        .map { der(it.groupValues[1]) }
                        .toList(),
                    level,
                )
            }
        val samples =
            files(others.resolve("android/google_android_key_attestation/der"), "").map { folder ->
                val level = if (folder.name.endsWith("StrongBox")) "STRONGBOX" else "TRUSTED_ENVIRONMENT"
                Recorded(folder.name, files(folder, ".der").map(File::readBytes), level)
            }
        val warden =
            Json.parseToJsonElement(others.resolve("warden_supreme/cases.json").readText()).jsonArray.map { it.jsonObject }.map { case ->
                Recorded(
                    case.text("name"), case.list("proof").map { der(it.jsonPrimitive.content) },
                    challenge =
                        der(
                            case
                                .text("challengeB64"),
                        ),
                )
            }
        return pixel3 + samples + warden
    }

    private fun files(
        folder: File,
        suffix: String,
    ) = checkNotNull(folder.listFiles { file -> file.name.endsWith(suffix) }).sorted()

    private fun der(base64: String) = Base64.getMimeDecoder().decode(base64)

    @TestFactory
    fun `chains of real phones arrive as they are, and are read as what they are`(): List<DynamicTest> =
        recorded().also { assertTrue(it.size >= 12) }.map { phone ->
            DynamicTest.dynamicTest(phone.name) {
                val request = sent { _, _ -> phone.chain }
                val read = ask(JsonObject(mapOf("do" to JsonPrimitive("parse"), "request" to request)))
                assertEquals(phone.chain.map(hex::formatHex), chain(read).map(hex::formatHex))
                if (phone.level != null) assertEquals(phone.level, read.text("level"))
                if (phone.challenge != null) assertArrayEquals(phone.challenge, hex.parseHex(read.text("challenge")))
                // They vouch for another key and another request.
                assertNotNull(verdict(request))
            }
        }

    companion object {
        private val process =
            ProcessBuilder(System.getProperty("corelocker.python"), System.getProperty("corelocker.attest"))
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start()
        private val output = process.inputStream.bufferedReader()

        private fun ask(question: JsonObject): JsonObject {
            process.outputStream.write("$question\n".toByteArray())
            process.outputStream.flush()
            return Json.parseToJsonElement(checkNotNull(output.readLine()) { "the verifier ended" }).jsonObject
        }

        @AfterAll
        @JvmStatic
        fun stop() {
            process.outputStream.close()
            process.waitFor()
        }
    }
}
