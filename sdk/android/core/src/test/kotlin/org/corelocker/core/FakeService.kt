package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonArray
import kotlinx.serialization.json.putJsonObject
import mockwebserver3.Dispatcher
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import mockwebserver3.RecordedRequest
import mockwebserver3.SocketEffect
import java.security.interfaces.ECPublicKey
import java.util.concurrent.ConcurrentLinkedQueue
import javax.crypto.Cipher
import javax.crypto.spec.GCMParameterSpec
import javax.crypto.spec.SecretKeySpec

/** An unlock service that answers unlocks as [script] says and keeps no places: what it was asked for is what tests look at. */
internal class FakeService(
    private val modelVersion: Long = 3,
) : AutoCloseable {
    private val signer = Publisher()
    private val server = MockWebServer()
    private var challenges = 0

    /** For each unlock: "ok", "lost" (the answer), or the code of a problem. Then "ok" for ever. */
    val script = ConcurrentLinkedQueue<String>()

    /** Answers challenges without the secret for the device key. */
    var forgetsSecret = false

    /** The unlock requests. */
    val asked = ArrayList<JsonObject>()

    init {
        server.dispatcher =
            object : Dispatcher() {
                override fun dispatch(request: RecordedRequest): MockResponse {
                    val body = StrictJson.parse(checkNotNull(request.body).toByteArray())
                    return if (request.url.encodedPath == "/v1/challenges") challenge(body) else unlock(body)
                }
            }
        server.start()
    }

    fun config(publisher: Publisher): AppConfig {
        val keys = buildJsonObject { putJsonArray("keys") { add(signer.jwk) } }
        val config = JsonObject(Vectors.load("flow.json").child("config") + ("license_keys" to keys))
        return appConfig(config, "http://${server.hostName}:${server.port}", publisher.thumbprint)
    }

    /** The former key that each unlock has named with a good proof, by its thumbprint; null for none. */
    fun named(): List<String?> = asked.map(::named)

    /** The key that each unlock was for. */
    fun keys(): List<String> = asked.map { Jwk.thumbprint(key(it)) }

    private fun key(members: JsonObject) = checkNotNull(Jwk.keyOrNull(members["device_key"]))

    private fun named(body: JsonObject): String? {
        val replaces = body["replaces"] as? JsonObject ?: return null
        val former = Jwk.thumbprint(key(replaces))
        val (challenge, app, bundle, tier) = listOf("challenge", "app", "bundle", "tier").map(body::text)
        val request = UnlockRequest(challenge, app, bundle, tier, body.child("purchase").text("token"))
        val proof = hmac(secret(challenge, former), request.replacementDigest(Jwk.thumbprint(key(body))))
        check(replaces.text("proof") == Base64Url.encode(proof)) { "a wrong proof" }
        return former
    }

    private fun secret(
        challenge: String,
        device: String,
    ) = sha256("$challenge $device".toByteArray())

    private fun challenge(body: JsonObject): MockResponse {
        val challenge = "challenge-${++challenges}"
        val answer =
            buildJsonObject {
                put("challenge", challenge)
                put("expires_at", NOW + 300)
                if ("device_key" in body && !forgetsSecret) {
                    val sealed = seal(secret(challenge, Jwk.thumbprint(key(body))), key(body), "corelocker proof v1".toByteArray())
                    put("sealed", Base64Url.encode(sealed))
                }
            }
        return answer(201, answer)
    }

    private fun unlock(body: JsonObject): MockResponse {
        asked += body
        return when (val what = script.poll() ?: "ok") {
            "ok" -> answer(201, buildJsonObject { put("license", license(body)) })
            "lost" -> MockResponse.Builder().onResponseStart(SocketEffect.CloseSocket()).build()
            "proxy" -> MockResponse.Builder().code(503).build()
            else -> answer(if (what in listOf("overloaded", "timeout")) 503 else 409, problem(what))
        }
    }

    private fun problem(code: String) =
        buildJsonObject {
            put("type", "urn:corelocker:problem:$code")
            put("title", "Title")
        }

    private fun answer(
        status: Int,
        body: JsonObject,
    ) = MockResponse
        .Builder()
        .code(status)
        .body(body.toString())
        .build()

    private fun license(body: JsonObject): String {
        val claims =
            buildJsonObject {
                put("iss", "https://unlock.example.com")
                put("iat", NOW)
                put("nbf", NOW)
                put("jti", "license of ${body.text("challenge")}")
                put("aud", body.text("app"))
                put("env", "development")
                put("bundle", body.text("bundle"))
                put("model_version", modelVersion)
                put("tier", body.text("tier"))
                putJsonObject("cnf") { put("jkt", Jwk.thumbprint(key(body))) }
            }
        val wrapped = seal(ByteArray(32), key(body), "corelocker license v1".toByteArray() + sha256(canonicalJson(claims)))
        val all = JsonObject(claims + ("wk" to JsonPrimitive(Base64Url.encode(wrapped))))
        val header = """{"alg":"ES256","typ":"corelocker-license+jwt"}"""
        val signed = Base64Url.encode(header.toByteArray()) + "." + Base64Url.encode(all.toString().toByteArray())
        return signed + "." + Base64Url.encode(signer.sign(signed.toByteArray()))
    }

    override fun close() = server.close()

    companion object {
        const val NOW = 1_800_000_000L

        /** HPKE's enc || ciphertext, which a device key opens (docs/formats.md, Opening wk). */
        fun seal(
            plaintext: ByteArray,
            recipient: ECPublicKey,
            info: ByteArray,
        ): ByteArray {
            fun extract(
                suite: ByteArray,
                salt: ByteArray,
                label: String,
                input: ByteArray,
            ) = Hkdf.extract(salt, "HPKE-v1".toByteArray() + suite + label.toByteArray() + input)

            fun expand(
                suite: ByteArray,
                key: ByteArray,
                label: String,
                info: ByteArray,
                size: Int,
            ) = Hkdf.expand(key, byteArrayOf(0, size.toByte()) + "HPKE-v1".toByteArray() + suite + label.toByteArray() + info, size)
            val kem = "KEM".toByteArray() + byteArrayOf(0, 0x10)
            val suite = "HPKE".toByteArray() + byteArrayOf(0, 0x10, 0, 1, 0, 2)
            val none = ByteArray(0)
            val sender = newKeyPair()
            val enc = P256.point(sender.public as ECPublicKey)
            val agreed = extract(kem, none, "eae_prk", SoftwareKey(sender).agree(recipient))
            val shared = expand(kem, agreed, "shared_secret", enc + P256.point(recipient), 32)
            val context = byteArrayOf(0) + extract(suite, none, "psk_id_hash", none) + extract(suite, none, "info_hash", info)
            val secret = extract(suite, shared, "secret", none)
            val nonce = GCMParameterSpec(128, expand(suite, secret, "base_nonce", context, 12))
            return enc +
                Cipher.getInstance("AES/GCM/NoPadding").run {
                    init(Cipher.ENCRYPT_MODE, SecretKeySpec(expand(suite, secret, "key", context, 32), "AES"), nonce)
                    doFinal(plaintext)
                }
        }
    }
}
