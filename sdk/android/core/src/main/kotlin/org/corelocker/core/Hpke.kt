package org.corelocker.core

import java.security.GeneralSecurityException
import java.security.interfaces.ECPublicKey
import javax.crypto.Cipher
import javax.crypto.Mac
import javax.crypto.spec.GCMParameterSpec
import javax.crypto.spec.SecretKeySpec

/** HKDF-SHA256 (RFC 5869) by the platform's HMAC. */
internal object Hkdf {
    const val HASH_SIZE = 32

    fun extract(
        salt: ByteArray,
        input: ByteArray,
    ): ByteArray = hmac(salt, input)

    /** At most 32 bytes, which is all that is needed here: one block. */
    fun expand(
        key: ByteArray,
        info: ByteArray,
        size: Int,
    ): ByteArray {
        require(size <= HASH_SIZE)
        return hmac(key, info + byteArrayOf(1)).copyOf(size)
    }
}

internal fun hmac(
    key: ByteArray,
    data: ByteArray,
): ByteArray =
    Mac.getInstance("HmacSHA256").run {
        // HMAC pads a key with zeros, so an empty one, which the platform refuses, is that of 32 zeros.
        init(SecretKeySpec(if (key.isEmpty()) ByteArray(Hkdf.HASH_SIZE) else key, "HmacSHA256"))
        doFinal(data)
    }

/**
 * Opens what was sealed by HPKE (RFC 9180) in base mode with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, in a
 * single shot without AAD.
 */
internal object Hpke {
    private const val TAG_BITS = 128
    private val VERSION = "HPKE-v1".toByteArray()
    private val KEM_SUITE = "KEM".toByteArray() + byteArrayOf(0, 0x10)
    private val SUITE = "HPKE".toByteArray() + byteArrayOf(0, 0x10, 0, 1, 0, 2)

    /**
     * The plaintext of enc || ciphertext, or null when it does not open.
     *
     * @param recipient the public key that it was sealed to.
     * @param agree ECDH of the recipient's private key with this public key: the x coordinate, 32 bytes.
     */
    fun openOrNull(
        sealed: ByteArray,
        info: ByteArray,
        recipient: ECPublicKey,
        agree: (ECPublicKey) -> ByteArray,
    ): ByteArray? {
        if (sealed.size < P256.POINT_SIZE + TAG_BITS / 8) return null
        val enc = sealed.copyOf(P256.POINT_SIZE)
        val sender = P256.keyOrNull(enc) ?: return null
        val shared = sharedSecret(agree(sender), enc + P256.point(recipient))
        val (key, nonce) = keyAndNonce(shared, info)
        return try {
            Cipher.getInstance("AES/GCM/NoPadding").run {
                init(Cipher.DECRYPT_MODE, SecretKeySpec(key, "AES"), GCMParameterSpec(TAG_BITS, nonce))
                doFinal(sealed, P256.POINT_SIZE, sealed.size - P256.POINT_SIZE)
            }
        } catch (_: GeneralSecurityException) {
            null
        } finally {
            shared.fill(0)
            key.fill(0)
        }
    }

    /** ExtractAndExpand of DHKEM (section 4.1). */
    private fun sharedSecret(
        agreed: ByteArray,
        context: ByteArray,
    ): ByteArray {
        val prk = extract(KEM_SUITE, ByteArray(0), "eae_prk", agreed)
        agreed.fill(0)
        return expand(KEM_SUITE, prk, "shared_secret", context, Hkdf.HASH_SIZE)
    }

    /** KeySchedule in base mode (section 5.1): no pre-shared key. */
    private fun keyAndNonce(
        shared: ByteArray,
        info: ByteArray,
    ): Pair<ByteArray, ByteArray> {
        val none = ByteArray(0)
        val context = byteArrayOf(0) + extract(SUITE, none, "psk_id_hash", none) + extract(SUITE, none, "info_hash", info)
        val secret = extract(SUITE, shared, "secret", none)
        return expand(SUITE, secret, "key", context, 32) to expand(SUITE, secret, "base_nonce", context, 12)
    }

    private fun extract(
        suite: ByteArray,
        salt: ByteArray,
        label: String,
        input: ByteArray,
    ): ByteArray = Hkdf.extract(salt, VERSION + suite + label.toByteArray() + input)

    private fun expand(
        suite: ByteArray,
        key: ByteArray,
        label: String,
        info: ByteArray,
        size: Int,
    ): ByteArray = Hkdf.expand(key, byteArrayOf(0, size.toByte()) + VERSION + suite + label.toByteArray() + info, size)
}
