package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import java.security.interfaces.ECPublicKey
import java.time.Instant

/**
 * A license whose signature was checked (docs/formats.md, License).
 *
 * ```
 * val license = locker.license()
 * details.text = "${license.tier}, until ${license.expiresAt ?: "ever"}"
 * ```
 *
 * @property id id of this license; each renewal has another.
 * @property issuer the service that has issued it.
 * @property issuedAt when.
 * @property notBefore from when on it counts.
 * @property expiresAt its end; null for one that is perpetual.
 * @property renewAt when to ask for the next: after two thirds of its time; null for one that is perpetual.
 * @property app package name of the app that it is for.
 * @property environment of the service that has issued it.
 * @property bundle id of the key bundle that it opens.
 * @property modelVersion the newest version of the model that it opens.
 * @property tier the highest tier that it opens.
 * @property device thumbprint of the device key that it was issued to.
 */
public class License internal constructor(
    public val id: String,
    public val issuer: String,
    public val issuedAt: Instant,
    public val notBefore: Instant,
    public val expiresAt: Instant?,
    public val app: String,
    public val environment: Environment,
    public val bundle: String,
    public val modelVersion: Long,
    public val tier: String,
    public val device: String,
    private val wrappedKey: ByteArray,
    private val info: ByteArray,
) {
    public val renewAt: Instant? =
        expiresAt?.let { issuedAt.plusSeconds(Math.floorDiv((it.epochSecond - issuedAt.epochSecond) * 2, 3L)) }

    /** The content key of [tier]. Throws [CoreLockerException] with LICENSE_DEVICE or LICENSE_WRAP. */
    internal fun open(key: DeviceKey): ContentKey {
        if (key.thumbprint != device) {
            throw CoreLockerException(ErrorCode.LICENSE_DEVICE, "the license was issued to another device key")
        }
        val opened = key.open(wrappedKey, info)
        if (opened.size != ContentKey.SIZE) {
            opened.fill(0)
            throw CoreLockerException(ErrorCode.LICENSE_WRAP, "the license holds no content key")
        }
        return ContentKey(opened)
    }

    override fun toString(): String = "License($id, tier $tier, until ${expiresAt ?: "ever"})"

    internal companion object {
        private const val TYPE = "corelocker-license+jwt"
        private const val MAX_TOKEN = 16 shl 10
        private const val MAX_TEXT = 256
        private const val WRAPPED_KEY_SIZE = P256.POINT_SIZE + ContentKey.SIZE + 16
        private val INFO = "corelocker license v1".toByteArray()
        private val UUID_TEXT = Regex("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
        private val HEADER_MEMBERS = setOf("alg", "typ", "kid")

        /**
         * The license in a compact JWS that one of [keys] has signed; says nothing about where and when it may be used.
         * Throws [CoreLockerException] with LICENSE_FORMAT, LICENSE_TYPE or LICENSE_SIGNATURE.
         */
        fun read(
            token: String,
            keys: TrustedKeys,
        ): License {
            if (token.length > MAX_TOKEN) throw malformed("it is longer than $MAX_TOKEN characters")
            val parts = token.split('.')
            val decoded = parts.map { Base64Url.decodeOrNull(it) ?: throw malformed("it is not base64url") }
            if (decoded.size != 3) throw malformed("it has not three parts")
            val header = json(decoded[0])
            if (Fields.textOrNull(header["typ"]) != TYPE || Fields.textOrNull(header["alg"]) != "ES256") {
                throw CoreLockerException(ErrorCode.LICENSE_TYPE, "the token is no license, or not signed by ES256")
            }
            val kid = Fields.textOrNull(header["kid"])
            if (!HEADER_MEMBERS.containsAll(header.keys) || (kid == null && "kid" in header)) {
                throw malformed("its header holds something else than alg, typ and kid")
            }
            val signed = "${parts[0]}.${parts[1]}".toByteArray()
            if (keys.candidates(kid).none { key: ECPublicKey -> Es256.verify(key, decoded[2], signed) }) {
                throw CoreLockerException(ErrorCode.LICENSE_SIGNATURE, "no key that the app knows has signed the license")
            }
            return ofClaims(json(decoded[1]))
        }

        /** HPKE's info, which binds the wrapped key to all other claims. */
        fun info(claims: JsonObject): ByteArray =
            try {
                INFO + sha256(canonicalJson(JsonObject(claims - "wk")))
            } catch (outside: JsonFormatException) {
                throw malformed("${outside.message}")
            }

        private fun ofClaims(claims: JsonObject): License {
            val fields = Fields(claims, "the license", ErrorCode.LICENSE_FORMAT)

            fun text(name: String) = claim(fields, name)

            fun time(name: String) = Instant.ofEpochSecond(fields.integer(name, 0..StrictJson.MAX_INTEGER))
            val wrappedKey = fields.base64url("wk", WRAPPED_KEY_SIZE)
            val (issuedAt, notBefore) = time("iat") to time("nbf")
            val expiresAt = if ("exp" in fields) time("exp") else null
            if (expiresAt != null && (expiresAt <= issuedAt || expiresAt <= notBefore)) throw malformed("it ends before it begins")
            val device = claim(fields.child("cnf"), "jkt")
            if (device.length != Jwk.THUMBPRINT_SIZE) throw malformed("cnf.jkt is no thumbprint")
            return License(
                id = text("jti"),
                issuer = text("iss"),
                issuedAt = issuedAt,
                notBefore = notBefore,
                expiresAt = expiresAt,
                app = text("aud"),
                environment = Environment.of(text("env")) ?: throw malformed("env is neither production nor development"),
                bundle = text("bundle").also { if (!UUID_TEXT.matches(it)) throw malformed("bundle is no UUID") },
                modelVersion = fields.integer("model_version", 0..StrictJson.MAX_INTEGER),
                tier = text("tier"),
                device = device,
                wrappedKey = wrappedKey,
                info = info(claims),
            )
        }

        private fun claim(
            fields: Fields,
            name: String,
        ): String {
            val value = Fields.textOrNull(fields.values[name])
            if (value == null || value.codePointCount(0, value.length) !in 1..MAX_TEXT) {
                throw fields.refuse("$name is not a text of 1 to $MAX_TEXT characters")
            }
            return value
        }

        private fun json(data: ByteArray): JsonObject =
            try {
                StrictJson.parse(data)
            } catch (wrong: JsonFormatException) {
                throw malformed("${wrong.message}")
            }

        private fun malformed(reason: String) = CoreLockerException(ErrorCode.LICENSE_FORMAT, "the license: $reason")
    }
}
