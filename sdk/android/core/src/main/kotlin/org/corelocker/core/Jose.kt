package org.corelocker.core

import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import java.math.BigInteger
import java.security.AlgorithmParameters
import java.security.KeyFactory
import java.security.MessageDigest
import java.security.Signature
import java.security.SignatureException
import java.security.interfaces.ECPublicKey
import java.security.spec.ECFieldFp
import java.security.spec.ECGenParameterSpec
import java.security.spec.ECParameterSpec
import java.security.spec.ECPoint
import java.security.spec.ECPublicKeySpec
import java.security.spec.InvalidKeySpecException
import java.util.Base64

/** base64url without padding (RFC 4648, section 5) in the one form that bytes have. */
internal object Base64Url {
    fun encode(data: ByteArray): String = Base64.getUrlEncoder().withoutPadding().encodeToString(data)

    /** The bytes of [text], or null for padding, other characters or bits that are left over. */
    fun decodeOrNull(text: String): ByteArray? {
        val data =
            try {
                Base64.getUrlDecoder().decode(text)
            } catch (_: IllegalArgumentException) {
                return null
            }
        return data.takeIf { encode(it) == text }
    }
}

internal fun sha256(data: ByteArray): ByteArray = MessageDigest.getInstance("SHA-256").digest(data)

/** Keys and points of the curve P-256. */
internal object P256 {
    const val COORDINATE_SIZE = 32
    const val POINT_SIZE = 1 + 2 * COORDINATE_SIZE
    private const val UNCOMPRESSED: Byte = 4

    val parameters: ECParameterSpec =
        AlgorithmParameters
            .getInstance("EC")
            .apply { init(ECGenParameterSpec("secp256r1")) }
            .getParameterSpec(ECParameterSpec::class.java)

    /** The key of an uncompressed point (SEC 1, 2.3.4), or null when it is none of the curve. */
    fun keyOrNull(point: ByteArray): ECPublicKey? {
        if (point.size != POINT_SIZE || point[0] != UNCOMPRESSED) return null
        val x = BigInteger(1, point.copyOfRange(1, 1 + COORDINATE_SIZE))
        val y = BigInteger(1, point.copyOfRange(1 + COORDINATE_SIZE, POINT_SIZE))
        if (!isOnCurve(x, y)) return null
        return try {
            KeyFactory.getInstance("EC").generatePublic(ECPublicKeySpec(ECPoint(x, y), parameters)) as ECPublicKey
        } catch (_: InvalidKeySpecException) {
            null
        }
    }

    /** The uncompressed point of a key. Throws [IllegalArgumentException] when the key is of another curve. */
    fun point(key: ECPublicKey): ByteArray {
        val (x, y) = key.w.affineX to key.w.affineY
        require(key.params.curve == parameters.curve && isOnCurve(x, y)) { "a key of another curve than P-256" }
        return byteArrayOf(UNCOMPRESSED) + coordinate(x) + coordinate(y)
    }

    // Not every provider of KeyFactory and KeyAgreement looks (RFC 9180, section 7.1.4 asks for it).
    private fun isOnCurve(
        x: BigInteger,
        y: BigInteger,
    ): Boolean {
        val prime = (parameters.curve.field as ECFieldFp).p
        if (x >= prime || y >= prime) return false
        val right = x.pow(3) + parameters.curve.a * x + parameters.curve.b
        return (y.pow(2) - right).mod(prime).signum() == 0
    }

    private fun coordinate(value: BigInteger): ByteArray {
        val bytes = value.toByteArray().dropWhile { it == 0.toByte() }.toByteArray()
        return ByteArray(COORDINATE_SIZE - bytes.size) + bytes
    }
}

/** Public keys as JWK (RFC 7517; RFC 7518, section 6.2.1), for P-256 alone. */
internal object Jwk {
    const val THUMBPRINT_SIZE = 43

    fun members(key: ECPublicKey): Map<String, String> {
        val point = P256.point(key)
        val x = point.copyOfRange(1, 1 + P256.COORDINATE_SIZE)
        val y = point.copyOfRange(1 + P256.COORDINATE_SIZE, P256.POINT_SIZE)
        return mapOf("kty" to "EC", "crv" to "P-256", "x" to Base64Url.encode(x), "y" to Base64Url.encode(y))
    }

    fun json(key: ECPublicKey) = JsonObject(members(key).mapValues { JsonPrimitive(it.value) })

    /** The key of a public JWK, or null; members that it does not need are ignored, a private part is refused. */
    fun keyOrNull(jwk: JsonElement?): ECPublicKey? {
        val members = jwk as? JsonObject ?: return null

        fun text(name: String) = Fields.textOrNull(members[name])
        if (text("kty") != "EC" || text("crv") != "P-256" || "d" in members) return null
        val x = text("x")?.let(Base64Url::decodeOrNull)
        val y = text("y")?.let(Base64Url::decodeOrNull)
        if (x?.size != P256.COORDINATE_SIZE || y?.size != P256.COORDINATE_SIZE) return null
        return P256.keyOrNull(byteArrayOf(4) + x + y)
    }

    /** RFC 7638: SHA-256 of the required members in their order, base64url, 43 characters. */
    fun thumbprint(key: ECPublicKey): String {
        val jwk = members(key)
        val json = """{"crv":"P-256","kty":"EC","x":"${jwk["x"]}","y":"${jwk["y"]}"}"""
        return Base64Url.encode(sha256(json.toByteArray()))
    }
}

/** Signatures of ES256 (RFC 7518, section 3.4): r and s, 32 bytes each. */
internal object Es256 {
    const val SIGNATURE_SIZE = 64

    fun verify(
        key: ECPublicKey,
        signature: ByteArray,
        data: ByteArray,
    ): Boolean {
        if (signature.size != SIGNATURE_SIZE) return false
        val r = BigInteger(1, signature.copyOfRange(0, SIGNATURE_SIZE / 2))
        val s = BigInteger(1, signature.copyOfRange(SIGNATURE_SIZE / 2, SIGNATURE_SIZE))
        val order = P256.parameters.order
        if (r.signum() == 0 || s.signum() == 0 || r >= order || s >= order) return false
        return try {
            Signature.getInstance("SHA256withECDSA").run {
                initVerify(key)
                update(data)
                verify(der(r, s))
            }
        } catch (_: SignatureException) {
            false
        }
    }

    // Android's providers know signatures as DER only: SEQUENCE { INTEGER r, INTEGER s }, never longer than 127 bytes.
    private fun der(
        r: BigInteger,
        s: BigInteger,
    ): ByteArray {
        fun integer(value: BigInteger) = value.toByteArray().let { byteArrayOf(2, it.size.toByte()) + it }
        val both = integer(r) + integer(s)
        return byteArrayOf(0x30, both.size.toByte()) + both
    }
}
