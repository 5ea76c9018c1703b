package org.corelocker.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.random.Random

/** Good signatures over wrong content: damage to signed bytes gets no further than the signature. */
internal class SignedFuzzTest {
    private val signer = Publisher()
    private val refused = HashSet<String>()

    @Test
    fun `claims of licenses`() {
        val claims =
            Vectors.load("license.json").objects("vectors").filter { it.text("expect") == "ok" }.map {
                Json.parseToJsonElement(checkNotNull(Base64Url.decodeOrNull(it.text("token").split('.')[1])).decodeToString())
            }
        val keys = TrustedKeys(listOf(signer.publicKey))
        val header = Base64Url.encode("""{"alg":"ES256","typ":"corelocker-license+jwt"}""".toByteArray())
        fuzz("license-") { random ->
            val signed = "$header.${Base64Url.encode(damage(claims.random(random), random).toString().toByteArray())}"
            noting { License.read("$signed.${Base64Url.encode(signer.sign(signed.toByteArray()))}", keys) }
        }
        assertEquals(setOf("license-format"), refused)
    }

    @Test
    fun `headers of bundles`() {
        val seeds =
            Vectors
                .load("bundle.json")
                .objects("vectors")
                .filter { it.text("expect") == "ok" }
                .map { it.base64("bundle") }
        val bundles = seeds.map { seed -> header(seed) to seed.copyOfRange(sections(seed), seed.size) }
        fuzz("bundle-") { random ->
            val (header, sections) = bundles.random(random)
            val json = damage(header, random).toString().toByteArray()
            val start =
                ByteBuffer
                    .allocate(START)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .put(MAGIC)
                    .putInt(json.size)
            val signed = start.array() + json
            noting { KeyBundle.open(signed + signer.sign(signed) + sections, signer.thumbprint) }
        }
        assertTrue("bundle-header" in refused && "bundle-signature" !in refused, "$refused")
    }

    @Test
    fun `public keys`() =
        fuzz("") { random ->
            val key = Jwk.keyOrNull(damage(signer.jwk, random))
            if (key != null) assertEquals(signer.thumbprint, Jwk.thumbprint(key))
        }

    private fun noting(read: () -> Unit) =
        try {
            read()
        } catch (wrong: CoreLockerException) {
            refused += wrong.code.word
            throw wrong
        }

    private fun headerSize(bundle: ByteArray) = ByteBuffer.wrap(bundle).order(ByteOrder.LITTLE_ENDIAN).getInt(MAGIC.size)

    private fun sections(bundle: ByteArray) = START + headerSize(bundle) + Es256.SIGNATURE_SIZE

    private fun header(bundle: ByteArray): JsonObject {
        val header = bundle.copyOfRange(START, START + headerSize(bundle)).decodeToString()
        val ours = mapOf("publisher" to JsonPrimitive(signer.thumbprint), "publisher_key" to signer.jwk)
        return JsonObject(Json.parseToJsonElement(header).jsonObject + ours)
    }

    /** Another value somewhere inside, one more or one less. */
    private fun damage(
        value: JsonElement,
        random: Random,
    ): JsonElement =
        when {
            value is JsonObject && value.isNotEmpty() && random.nextInt(8) > 0 -> {
                val name = value.keys.random(random)
                when (random.nextInt(8)) {
                    0 -> JsonObject(value - name)
                    1 -> JsonObject(value + ("more" to ODD.random(random)))
                    else -> JsonObject(value + (name to damage(value.getValue(name), random)))
                }
            }

            value is JsonArray && value.isNotEmpty() && random.nextInt(8) > 0 -> {
                val at = random.nextInt(value.size)
                when (random.nextInt(8)) {
                    0 -> JsonArray(value - value[at])
                    1 -> JsonArray(value + value[at])
                    else -> JsonArray(value.mapIndexed { index, item -> if (index == at) damage(item, random) else item })
                }
            }

            value is JsonPrimitive && value.isString && random.nextInt(2) > 0 -> {
                JsonPrimitive(damage(value.content, random))
            }

            else -> {
                ODD.random(random)
            }
        }

    private fun damage(
        text: String,
        random: Random,
    ): String {
        val at = random.nextInt(text.length + 1)
        return text.take(at) + LETTERS.random(random) + text.drop(at + random.nextInt(2))
    }

    private companion object {
        const val START = 12
        val MAGIC = "CLKEYB02".toByteArray()
        const val LETTERS = "Aa0-_./\\\u0000\u00e9"
        val ODD =
            listOf(
                JsonNull,
                JsonPrimitive(true),
                JsonPrimitive(-1),
                JsonPrimitive(0),
                JsonPrimitive(1),
                JsonPrimitive(1.5),
                JsonPrimitive(StrictJson.MAX_INTEGER),
                JsonPrimitive(Long.MAX_VALUE),
                JsonPrimitive(""),
                JsonPrimitive("3.0"),
                JsonPrimitive("x".repeat(2000)),
                JsonArray(emptyList()),
                JsonArray(List(100) { JsonPrimitive(it) }),
                JsonObject(emptyMap()),
            )
    }
}
