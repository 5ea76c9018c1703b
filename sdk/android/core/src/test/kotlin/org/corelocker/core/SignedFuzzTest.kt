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
import javax.crypto.Cipher
import javax.crypto.spec.GCMParameterSpec
import javax.crypto.spec.SecretKeySpec
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
        val seeds = good().map { it.base64("bundle") }
        val bundles = seeds.map { seed -> header(seed) to seed.copyOfRange(sections(seed), seed.size) }
        fuzz("bundle-") { random ->
            val (header, sections) = bundles.random(random)
            noting { KeyBundle.open(signed(damage(header, random).toString().toByteArray()) + sections, signer.thumbprint) }
        }
        assertTrue("bundle-header" in refused && "bundle-signature" !in refused, "$refused")
    }

    /** What a good key opens, and nobody but a publisher's broken tool would have encrypted. */
    @Test
    fun `plaintexts of sections`() {
        val vector = good().first { "sections" in it }
        val header = header(vector.base64("bundle"))
        val seeds =
            vector.objects("sections").map {
                val digests = """{"sample":"${it.text("sample")}","file":"${it.text("file")}"}""".toByteArray()
                littleEndian(digests.size) + digests + it.base64("patch")
            }
        var accepted = 0
        fuzz("bundle-") { random ->
            noting { open(header, damage(seeds.random(random), seeds, random)) }
            accepted++
        }
        assertEquals(setOf("bundle-header"), refused)
        assertTrue(accepted > 0)
    }

    /** Opens the only section of a bundle with this header. */
    private fun open(
        header: JsonObject,
        plaintext: ByteArray,
    ) {
        val (key, nonce) = ByteArray(ContentKey.SIZE) to ByteArray(NONCE)
        val length = plaintext.size + KeyBundle.TAG_SIZE
        val section = header.objects("sections").first() + ("nonce" to JsonPrimitive(Base64Url.encode(nonce)))
        val sections = JsonArray(listOf(JsonObject(section + ("length" to JsonPrimitive(length)))))
        val json = JsonObject(header + ("sections" to sections)).toString().toByteArray()
        val encrypted =
            Cipher.getInstance("AES/GCM/NoPadding").run {
                init(Cipher.ENCRYPT_MODE, SecretKeySpec(key, "AES"), GCMParameterSpec(8 * KeyBundle.TAG_SIZE.toInt(), nonce))
                updateAAD(sha256(json) + littleEndian(0))
                doFinal(plaintext)
            }
        val bundle = KeyBundle.open(signed(json) + encrypted, signer.thumbprint)
        bundle.decrypt(bundle.sections.single(), ContentKey(key)).close()
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

    private fun good() = Vectors.load("bundle.json").objects("vectors").filter { it.text("expect") == "ok" }

    private fun littleEndian(value: Int): ByteArray =
        ByteBuffer
            .allocate(Int.SIZE_BYTES)
            .order(ByteOrder.LITTLE_ENDIAN)
            .putInt(value)
            .array()

    /** A bundle up to its sections. */
    private fun signed(header: ByteArray): ByteArray {
        val signed = MAGIC + littleEndian(header.size) + header
        return signed + signer.sign(signed)
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
        const val NONCE = 12
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
