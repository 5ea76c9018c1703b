package org.corelocker.core

import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonObjectBuilder
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.add
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.longOrNull
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonArray
import org.erdtman.jcs.JsonCanonicalizer

/**
 * Canonical JSON (RFC 8785), UTF-8, of an object of texts, integers and such objects with names in ASCII: the domain of
 * docs/formats.md, Canonical JSON. Throws [JsonFormatException] for anything else.
 */
internal fun canonicalJson(value: JsonObject): ByteArray {
    requireCanonical(value)
    return JsonCanonicalizer(value.toString()).encodedUTF8
}

private fun requireCanonical(value: JsonObject) {
    for ((name, item) in value) {
        if (name.any { it > '\u007f' }) throw JsonFormatException("a name is not ASCII")
        when {
            item is JsonObject -> requireCanonical(item)
            item is JsonPrimitive && (item.isString || item.longOrNull != null) -> Unit
            else -> throw JsonFormatException("a value is neither a text nor an integer nor an object")
        }
    }
}

/**
 * What an unlock request asks for; attestations vouch for its digest (docs/formats.md, Proofs).
 *
 * ```
 * override fun attest(request: UnlockRequest) = makeKey(challenge = request.digest(null))
 * ```
 *
 * @property challenge the service's nonce, as it was sent.
 * @property app package name of the app.
 * @property bundle id of the key bundle.
 * @property tier name of the tier.
 */
public class UnlockRequest internal constructor(
    public val challenge: String,
    public val app: String,
    public val bundle: String,
    public val tier: String,
    private val purchaseToken: String,
) {
    /**
     * The 32 bytes that an attestation carries: SHA-256 of the request's canonical JSON.
     *
     * @param thumbprint of the device key; null for `android-key` alone, where the digest is the challenge that the key is
     *   made with, and the certificate holds the key itself.
     */
    public fun digest(thumbprint: String?): ByteArray = sha256(canonical(thumbprint))

    /** What a former key of the device proves, so that its place goes to the key with this thumbprint. */
    internal fun replacementDigest(thumbprint: String): ByteArray = sha256(canonical(thumbprint, "corelocker-replacement-v1"))

    internal fun canonical(
        thumbprint: String?,
        type: String = "corelocker-request-v1",
    ): ByteArray {
        val members =
            mutableMapOf<String, JsonElement>(
                "app" to JsonPrimitive(app),
                "bundle" to JsonPrimitive(bundle),
                "challenge" to JsonPrimitive(challenge),
                "purchase" to JsonPrimitive(Base64Url.encode(sha256(purchaseToken.toByteArray()))),
                "tier" to JsonPrimitive(tier),
                "type" to JsonPrimitive(type),
            )
        if (thumbprint != null) members["device_key"] = JsonPrimitive(thumbprint)
        return canonicalJson(JsonObject(members))
    }

    internal companion object {
        /** What stands for the purchase when a license is renewed, so that a proof for an unlock is none for a renewal. */
        fun renewalToken(license: String): String = "renew:$license"
    }
}

/**
 * What vouches for a device key and a request: the member `attestation` of the unlock API.
 *
 * ```
 * Attestation.androidKey(store.getCertificateChain(alias).map { it.encoded })
 * ```
 */
public class Attestation private constructor(
    internal val json: JsonObject,
) {
    override fun toString(): String = "Attestation(${json["format"]})"

    public companion object {
        /**
         * Android's key attestation.
         *
         * @param chain certificates in DER, the device key's first.
         * @param integrityToken of the Play Integrity API, where the service asks for one.
         */
        public fun androidKey(
            chain: List<ByteArray>,
            integrityToken: String? = null,
        ): Attestation =
            of("android-key") {
                putJsonArray("chain") { chain.forEach { add(Base64Url.encode(it)) } }
                if (integrityToken != null) put("integrity_token", integrityToken)
            }

        /**
         * For emulators and tests: the signature of a development key. A production service refuses it.
         *
         * ```
         * Attestation.development(certificate.encoded, sign(request.digest(key.thumbprint)))
         * ```
         */
        public fun development(
            certificate: ByteArray,
            signature: ByteArray,
        ): Attestation =
            of("development") {
                put("certificate", Base64Url.encode(certificate))
                put("signature", Base64Url.encode(signature))
            }

        /** The device key answers itself. */
        internal fun deviceKey(proof: ByteArray): Attestation = of("device-key") { put("proof", Base64Url.encode(proof)) }

        private fun of(
            format: String,
            more: JsonObjectBuilder.() -> Unit,
        ) = Attestation(
            buildJsonObject {
                put("format", format)
                more()
            },
        )
    }
}

/**
 * What proves a purchase to the unlock service.
 *
 * ```
 * locker.unlock(Purchase.googlePlay("scanner_full", purchase.purchaseToken))
 * ```
 */
public class Purchase internal constructor(
    internal val json: JsonObject,
    internal val token: String,
) {
    override fun toString(): String = "Purchase(${json["provider"]})"

    public companion object {
        /** A one-time product of Google Play. Acknowledge it after the unlock, within three days. */
        public fun googlePlay(
            productId: String,
            purchaseToken: String,
        ): Purchase = googlePlay("product", productId, purchaseToken)

        /**
         * A subscription of Google Play.
         *
         * ```
         * locker.unlock(Purchase.googlePlaySubscription("scanner_monthly", purchase.purchaseToken))
         * ```
         */
        public fun googlePlaySubscription(
            productId: String,
            purchaseToken: String,
        ): Purchase = googlePlay("subscription", productId, purchaseToken)

        /**
         * A grant: a signed token (JWS) that the publisher's own backend gives to a customer.
         *
         * ```
         * locker.unlock(Purchase.grant(backend.grantFor(account)))
         * ```
         */
        public fun grant(jws: String): Purchase =
            Purchase(
                buildJsonObject {
                    put("provider", "grant")
                    put("token", jws)
                },
                jws,
            )

        private fun googlePlay(
            kind: String,
            product: String,
            token: String,
        ) = Purchase(
            buildJsonObject {
                put("provider", "google-play")
                put("kind", kind)
                put("product", product)
                put("token", token)
            },
            token,
        )
    }
}
