package org.corelocker.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import java.io.File
import java.util.HexFormat
import java.util.UUID
import javax.crypto.Cipher
import javax.crypto.spec.GCMParameterSpec
import javax.crypto.spec.SecretKeySpec

/** Keys, thumbprints, HPKE and content keys against their vectors. */
internal class PrimitivesTest {
    private val hex = HexFormat.of()

    @TestFactory
    fun thumbprints() =
        Vectors.tests(Vectors.load("jwk_thumbprint.json")) { vector ->
            val key = Jwk.keyOrNull(vector["jwk"])
            assertEquals(vector.text("expect"), if (key == null) "invalid" else "ok")
            if (key != null) assertEquals(vector.text("thumbprint"), Jwk.thumbprint(key))
        }

    @TestFactory
    fun contentKeys() =
        Vectors.tests(Vectors.load("tier_keys.json")) { vector ->
            val tiers = vector.number("tiers").toInt()
            val top = ContentKey(vector.hex("content_key"))
            vector.list("keys").forEachIndexed { tier, key ->
                val derived = top.derive(UUID.fromString(vector.text("bundle")), tiers - 1, tier)
                assertEquals(key.jsonPrimitive.content, hex.formatHex(derived.bytes))
            }
        }

    @TestFactory
    fun wrappedKeys(): List<DynamicTest> {
        val file = Vectors.load("hpke_wrap.json")
        val device = SoftwareKey.of(file.child("device_key"))
        return Vectors.tests(file) { vector ->
            val info = vector.hex("info")
            vector.textOrNull("claims")?.let { text ->
                val claims = Json.parseToJsonElement(text).jsonObject
                assertEquals(vector.text("canonical"), canonicalJson(JsonObject(claims - "wk")).toString(Charsets.UTF_8))
                assertArrayEquals(info, License.info(claims))
            }
            val sealed = checkNotNull(Base64Url.decodeOrNull(vector.text("wk")))
            assertEquals(vector.text("expect"), outcome { checkOpened(vector, device.open(sealed, info)) })
        }
    }

    private fun checkOpened(
        vector: JsonObject,
        opened: ByteArray,
    ) = assertEquals(vector.text("content_key"), hex.formatHex(opened))

    @TestFactory
    fun replacements(): List<DynamicTest> {
        val file = Vectors.load("device_key_proof.json")
        val former = SoftwareKey.of(file.child("device_key"))
        return Vectors.tests(file, "replacements") { vector ->
            val thumbprint = Jwk.thumbprint(checkNotNull(Jwk.keyOrNull(vector.child("new_device_key"))))
            val (app, bundle, tier) = listOf("app", "bundle", "tier").map(vector::text)
            val request = UnlockRequest(vector.text("challenge"), app, bundle, tier, vector.text("purchase_token"))
            val digest = request.replacementDigest(thumbprint)
            assertEquals(vector.text("digest"), hex.formatHex(digest))
            val proof = former.prove(checkNotNull(Base64Url.decodeOrNull(vector.text("sealed"))), digest)
            assertEquals(vector.text("expect") == "ok", vector.text("proof") == Base64Url.encode(proof))
        }
    }

    @TestFactory
    fun proofs(): List<DynamicTest> {
        val file = Vectors.load("device_key_proof.json")
        val device = SoftwareKey.of(file.child("device_key"))
        return Vectors.tests(file) { vector ->
            val sealed = checkNotNull(Base64Url.decodeOrNull(vector.text("sealed")))
            val token = UnlockRequest.renewalToken(vector.text("license_id"))
            val request =
                UnlockRequest(vector.text("challenge"), vector.text("app"), vector.text("bundle"), vector.text("tier"), token)
            val digest = request.digest(device.thumbprint)
            when (vector.text("expect")) {
                "ok" -> {
                    assertEquals(vector.text("digest"), hex.formatHex(digest))
                    assertEquals(vector.text("proof"), Base64Url.encode(device.prove(sealed, digest)))
                }

                // What a device answers is right; the vector's proof is what a service has to refuse.
                "signature" -> {
                    assertNotEquals(vector.text("proof"), Base64Url.encode(device.prove(sealed, digest)))
                }

                else -> {
                    assertEquals(vector.text("expect"), outcome { device.prove(sealed, digest) })
                }
            }
        }
    }

    @Test
    fun `requests have the canonical bytes that verifiers hash`() {
        val file = Json.parseToJsonElement(File(Vectors.folder, "attestation/made/canonical_requests.json").readText()).jsonArray
        for (vector in file.map(JsonElement::jsonObject)) {
            val key = checkNotNull(Jwk.keyOrNull(vector["device_key"]))
            val request =
                UnlockRequest(
                    vector.text("challenge"),
                    vector.text("app"),
                    vector.text("bundle"),
                    vector.text("tier"),
                    vector.text("purchase_token"),
                )
            for ((format, expected) in vector.child("attestations")) {
                val thumbprint = if (format == "android-key") null else Jwk.thumbprint(key)
                assertEquals(expected.jsonObject.text("canonical"), request.canonical(thumbprint).toString(Charsets.UTF_8))
                assertEquals(expected.jsonObject.text("sha256"), hex.formatHex(request.digest(thumbprint)))
            }
        }
        assertTrue(file.isNotEmpty())
    }

    @Test
    fun `opens what the keys of RFC 9180 seal, in base mode alone`() {
        val vectors = Json.parseToJsonElement(File(Vectors.folder, "hpke/rfc9180_p256_sha256_aes256gcm.json").readText()).jsonArray
        for (vector in vectors.map(JsonElement::jsonObject)) {
            val sealed =
                Cipher.getInstance("AES/GCM/NoPadding").run {
                    init(Cipher.ENCRYPT_MODE, SecretKeySpec(vector.hex("key"), "AES"), GCMParameterSpec(128, vector.hex("base_nonce")))
                    doFinal("a secret".toByteArray())
                }
            val device = SoftwareKey(checkNotNull(P256.keyOrNull(vector.hex("pkRm"))), privateKey(vector.hex("skRm")))
            val opened = outcome { assertEquals("a secret", String(device.open(vector.hex("enc") + sealed, vector.hex("info")))) }
            assertEquals(if (vector.number("mode") == 0L) "ok" else "license-wrap", opened)
        }
    }

    @Test
    fun `agrees as Wycheproof says`() {
        val file = Json.parseToJsonElement(File(Vectors.folder, "hpke/wycheproof_ecdh_secp256r1_ecpoint_test.json").readText())
        val cases = file.jsonObject.objects("testGroups").flatMap { it.objects("tests") }
        for (case in cases) {
            val point = hex.parseHex(case.text("public"))
            val peer = P256.keyOrNull(point)
            // A license holds uncompressed points alone.
            if (case.text("result") == "invalid" || point.size != P256.POINT_SIZE) {
                assertNull(peer, case.text("comment"))
            } else {
                val scalar = case.text("private").let { hex.parseHex(if (it.length % 2 == 0) it else "0$it") }
                val key = SoftwareKey(checkNotNull(peer), privateKey(scalar))
                assertEquals(case.text("shared"), hex.formatHex(key.agree(peer)), case.text("comment"))
            }
        }
        assertTrue(cases.size > 300)
    }

    @Test
    fun `what is printed holds no secret`() {
        val printed =
            listOf(
                Purchase.grant("secret.grant.token"),
                Purchase.googlePlay("product", "secret"),
                Attestation.androidKey(listOf("secret".toByteArray()), "secret"),
                ContentKey("secret".padEnd(32).toByteArray()),
            )
        for (value in printed) assertTrue("secret" !in "$value" && Base64Url.encode("secret".toByteArray()) !in "$value", "$value")
    }

    @Test
    fun `base64url has one form`() {
        for (wrong in listOf("AA==", "AB", "A", "AA\n", "A+", "A/", "Ä")) assertNull(Base64Url.decodeOrNull(wrong), wrong)
        assertArrayEquals(byteArrayOf(0), Base64Url.decodeOrNull("AA"))
    }
}
