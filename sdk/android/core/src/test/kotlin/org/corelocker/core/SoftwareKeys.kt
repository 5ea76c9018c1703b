package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonObjectBuilder
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.add
import kotlinx.serialization.json.addJsonObject
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonArray
import java.math.BigInteger
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.KeyFactory
import java.security.KeyPair
import java.security.KeyPairGenerator
import java.security.PrivateKey
import java.security.Signature
import java.security.interfaces.ECPublicKey
import java.security.spec.ECGenParameterSpec
import java.security.spec.ECPrivateKeySpec
import javax.crypto.KeyAgreement

internal fun newKeyPair(): KeyPair =
    KeyPairGenerator.getInstance("EC").run {
        initialize(ECGenParameterSpec("secp256r1"))
        generateKeyPair()
    }

internal fun privateKey(scalar: ByteArray): PrivateKey =
    KeyFactory.getInstance("EC").generatePrivate(ECPrivateKeySpec(BigInteger(1, scalar), P256.parameters))

/** A device key in memory. */
internal class SoftwareKey(
    publicKey: ECPublicKey,
    private val privateKey: PrivateKey,
) : DeviceKey(publicKey) {
    constructor(pair: KeyPair) : this(pair.public as ECPublicKey, pair.private)

    override fun agree(peer: ECPublicKey): ByteArray =
        KeyAgreement.getInstance("ECDH").run {
            init(privateKey)
            doPhase(peer, true)
            generateSecret()
        }

    companion object {
        /** From a private JWK. */
        fun of(jwk: JsonObject) =
            SoftwareKey(
                checkNotNull(Jwk.keyOrNull(JsonObject(jwk - "d"))),
                privateKey(checkNotNull(Base64Url.decodeOrNull(jwk.text("d")))),
            )
    }
}

/** One device key, and a development key that vouches for it. */
internal class SoftwareKeys(
    private val key: SoftwareKey,
    override val attestsRenewals: Boolean = false,
) : DeviceKeys {
    val attestationKey: KeyPair = newKeyPair()

    /** What the last [keepOnly] left. */
    var kept: Set<String>? = null

    override fun find(thumbprint: String) = key.takeIf { it.thumbprint == thumbprint }

    override fun attest(request: UnlockRequest) = AttestedKey(key, attestRenewal(request, key))

    override fun attestRenewal(
        request: UnlockRequest,
        key: DeviceKey,
    ): Attestation = Attestation.development(byteArrayOf(1), sign(signedBytes(request.digest(key.thumbprint))))

    override fun keepOnly(thumbprints: Set<String>) {
        kept = thumbprints
    }

    private fun sign(data: ByteArray) =
        Signature.getInstance("SHA256withECDSA").run {
            initSign(attestationKey.private)
            update(data)
            sign()
        }

    companion object {
        fun signedBytes(digest: ByteArray) = "corelocker development attestation v1\u0000".toByteArray() + digest
    }
}

/** Keeps everything in memory. */
internal class MemoryStore :
    LicenseStore,
    ClockMarkStore {
    private val licenses = HashMap<String, String>()
    private val attempts = HashMap<String, List<String>>()
    var mark: ClockMark? = null

    override fun load(bundle: String) = licenses[bundle]

    override fun save(
        bundle: String,
        license: String,
    ) {
        licenses[bundle] = license
    }

    override fun remove(bundle: String) {
        licenses.remove(bundle)
    }

    override fun all() = licenses.values.toList()

    override fun loadAttempts(bundle: String) = attempts[bundle].orEmpty()

    override fun saveAttempts(
        bundle: String,
        thumbprints: List<String>,
    ) {
        attempts[bundle] = thumbprints.toList()
    }

    override fun allAttempts() = attempts.values.flatten()

    override fun loadMark() = mark

    override fun saveMark(mark: ClockMark) {
        this.mark = mark
    }

    override fun removeMark() {
        mark = null
    }
}

/** Signs what a publisher signs. */
internal class Publisher {
    private val pair = newKeyPair()
    val publicKey = pair.public as ECPublicKey
    val jwk = JsonObject(Jwk.members(publicKey).mapValues { JsonPrimitive(it.value) })
    val thumbprint = Jwk.thumbprint(publicKey)

    /** A key bundle without sections. */
    fun bundle(
        id: String,
        modelVersion: Long,
        tiers: List<String>,
    ): KeyBundle {
        val header =
            buildJsonObject {
                put("format", "corelocker-key-bundle")
                put("version", "2.0")
                put("bundle", id)
                put("model", "test")
                put("model_version", modelVersion)
                put("publisher", thumbprint)
                put("publisher_key", jwk)
                putJsonArray("tiers") { tiers.forEach { add(it) } }
                putJsonArray("artifacts") {
                    addJsonObject {
                        put("name", "model.pte")
                        put("format", "executorch")
                        putJsonArray("files") { addJsonObject { file() } }
                    }
                }
                putJsonArray("sections") {}
            }.toString().toByteArray()
        val start =
            ByteBuffer
                .allocate(12)
                .order(ByteOrder.LITTLE_ENDIAN)
                .put("CLKEYB02".toByteArray())
                .putInt(header.size)
        val signed = start.array() + header
        return KeyBundle.open(signed + sign(signed), thumbprint)
    }

    private fun JsonObjectBuilder.file() {
        put("path", "model.pte")
        put("size", 1)
        put("sha256", "00".repeat(32))
    }

    fun sign(data: ByteArray): ByteArray =
        Signature.getInstance("SHA256withECDSAinP1363Format").run {
            initSign(pair.private)
            update(data)
            sign()
        }
}

/** The app configuration of flow.json, for another service and publisher. */
internal fun appConfig(
    json: JsonObject,
    service: String,
    publisher: String,
    graceSeconds: Long = 0,
): AppConfig {
    val changes = mapOf("service" to service, "publisher" to publisher).mapValues { JsonPrimitive(it.value) }
    return AppConfig.parse(JsonObject(json + changes + ("offline_grace" to JsonPrimitive(graceSeconds))).toString().toByteArray())
}
