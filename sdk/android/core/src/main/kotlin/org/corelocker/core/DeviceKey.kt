package org.corelocker.core

import java.security.interfaces.ECPublicKey

/**
 * A P-256 agreement key pair; on phones its private half lives in the secure hardware.
 *
 * ```
 * class SoftwareKey(private val pair: KeyPair) : DeviceKey(pair.public as ECPublicKey) {
 *     override fun agree(peer: ECPublicKey) =
 *         KeyAgreement.getInstance("ECDH").run { init(pair.private); doPhase(peer, true); generateSecret() }
 * }
 * ```
 *
 * @property publicKey the public half.
 */
public abstract class DeviceKey(
    public val publicKey: ECPublicKey,
) {
    /** RFC 7638 thumbprint of the public key; a license names it. */
    public val thumbprint: String = Jwk.thumbprint(publicKey)

    /** ECDH with the private key: the x coordinate of the shared point, 32 bytes. The caller wipes it. */
    public abstract fun agree(peer: ECPublicKey): ByteArray

    /** What HPKE sealed to this key. Throws [CoreLockerException] with [ErrorCode.LICENSE_WRAP] when it does not open. */
    internal fun open(
        sealed: ByteArray,
        info: ByteArray,
    ): ByteArray =
        Hpke.openOrNull(sealed, info, publicKey, ::agree)
            ?: throw CoreLockerException(ErrorCode.LICENSE_WRAP, "what was sealed does not open with this device key")

    /** Answers a challenge: HMAC of the request's digest under a secret that only this key opens. */
    internal fun prove(
        sealed: ByteArray,
        digest: ByteArray,
    ): ByteArray {
        val secret = open(sealed, PROOF_INFO)
        return hmac(secret, digest).also { secret.fill(0) }
    }

    private companion object {
        val PROOF_INFO = "corelocker proof v1".toByteArray()
    }
}

/** RFC 7638 thumbprint of a public key. */
@CoreLockerInternal
public fun thumbprintOf(key: ECPublicKey): String = Jwk.thumbprint(key)

/**
 * The device keys of an app on this device, and what vouches for them. `org.corelocker.android` has the one for phones.
 * All functions may take seconds (secure hardware is slow), and are called off the main thread.
 *
 * ```
 * class TestKeys : DeviceKeys {
 *     private val keys = HashMap<String, DeviceKey>()
 *     override fun find(thumbprint: String) = keys[thumbprint]
 *     override fun attest(request: UnlockRequest) = attested(request).also { keys[it.key.thumbprint] = it.key }
 *     override fun keepOnly(thumbprints: Set<String>) { keys.keys.retainAll(thumbprints) }
 * }
 * ```
 */
public interface DeviceKeys {
    /** The key with this thumbprint, or null when it is gone (the app's data was cleared, or the phone replaced). */
    public fun find(thumbprint: String): DeviceKey?

    /**
     * A key and what vouches for it and for the request. Android attests a key when it makes it, so there each request makes a
     * new one; [keepOnly] drops what is not needed any more.
     */
    public fun attest(request: UnlockRequest): AttestedKey

    /**
     * Whether [attest] makes a new key each time. Then the former key hands its place of the purchase to the new one, and stays
     * until the license for the new one is stored.
     */
    public val makesKeyForEachUnlock: Boolean get() = false

    /** Whether [attestRenewal] vouches for renewals. Otherwise the key itself answers, which is the rule. */
    public val attestsRenewals: Boolean get() = false

    /**
     * What vouches anew for a key, to renew its license.
     *
     * ```
     * override fun attestRenewal(request: UnlockRequest, key: DeviceKey) =
     *     Attestation.development(certificate, sign(request.digest(key.thumbprint)))
     * ```
     */
    public fun attestRenewal(
        request: UnlockRequest,
        key: DeviceKey,
    ): Attestation = throw UnsupportedOperationException("these keys answer themselves")

    /** Deletes all keys but those with these thumbprints. */
    public fun keepOnly(thumbprints: Set<String>)
}

/**
 * A device key and its attestation for one request.
 *
 * ```
 * override fun attest(request: UnlockRequest) =
 *     AttestedKey(key, Attestation.development(certificate, sign(request.digest(key.thumbprint))))
 * ```
 *
 * @property key that the license will be wrapped to.
 * @property attestation what vouches for it.
 */
public class AttestedKey(
    public val key: DeviceKey,
    public val attestation: Attestation,
)
