package org.corelocker.android

import android.content.pm.PackageManager
import android.security.keystore.KeyGenParameterSpec
import android.security.keystore.KeyInfo
import android.security.keystore.KeyProperties
import androidx.annotation.RequiresApi
import org.corelocker.core.Attestation
import org.corelocker.core.AttestedKey
import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.DeviceKey
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.UnlockRequest
import org.corelocker.core.thumbprintOf
import java.security.KeyFactory
import java.security.KeyPairGenerator
import java.security.KeyStore
import java.security.KeyStoreException
import java.security.PrivateKey
import java.security.ProviderException
import java.security.interfaces.ECPublicKey
import java.security.spec.ECGenParameterSpec
import java.util.UUID
import javax.crypto.KeyAgreement

/**
 * Device keys in the phone's secure hardware: P-256 keys that agree and do nothing else, attested with the request's digest
 * when they are made. In the StrongBox where the phone has one, else in the TEE; a key in software is refused.
 *
 * @param hasStrongBox what the phone says. Some say so and fail when a key is made; then the TEE makes it.
 * @param integrityToken gets a Play Integrity token for a request's digest, where the service asks for one.
 */
@RequiresApi(31)
internal class Api31DeviceKeys(
    private val hasStrongBox: Boolean,
    private val integrityToken: ((ByteArray) -> String)? = null,
) : DeviceKeys {
    private val guard = KeystoreGuard()
    private val store: KeyStore by lazy { KeyStore.getInstance(KEYSTORE).apply { load(null) } }

    override val makesKeyForEachUnlock: Boolean get() = true

    override fun find(thumbprint: String): DeviceKey? = guard.run { aliases().firstOrNull { thumbprint(it) == thumbprint }?.let(::key) }

    override fun attest(request: UnlockRequest): AttestedKey {
        val digest = request.digest(null)
        val made = guard.run { make(digest) }
        var good = false
        try {
            val token = integrityToken?.let { ask(it, digest) }
            return AttestedKey(made.key, Attestation.androidKey(made.chain, token)).also { good = true }
        } finally {
            if (!good) guard.run { discard(made.alias) }
        }
    }

    override fun keepOnly(thumbprints: Set<String>): Unit =
        guard.run { aliases().filter { thumbprint(it) !in thumbprints }.forEach(store::deleteEntry) }

    private fun aliases() = store.aliases().toList().filter { it.startsWith(PREFIX) }

    private fun key(alias: String): DeviceKey? {
        val privateKey = store.getKey(alias, null) as? PrivateKey ?: return null
        return publicKey(alias)?.let { KeystoreKey(it, privateKey, guard) }
    }

    /** Of the certificate, so that a key that was invalidated is in no other's way. */
    @OptIn(CoreLockerInternal::class)
    private fun thumbprint(alias: String) = publicKey(alias)?.let(::thumbprintOf)

    private fun publicKey(alias: String) = store.getCertificate(alias)?.publicKey as? ECPublicKey

    private fun make(challenge: ByteArray): Made {
        if (hasStrongBox) {
            try {
                return guard.run { make(challenge, strongBox = true) }
            } catch (_: CoreLockerException) {
                // A StrongBox that is full, or knows no agreement keys, or makes them in software: the TEE may still do it.
            }
        }
        return make(challenge, strongBox = false)
    }

    /** A key that was tried; what turns out useless is not kept. */
    private fun make(
        challenge: ByteArray,
        strongBox: Boolean,
    ): Made {
        val alias = PREFIX + UUID.randomUUID()
        var good = false
        try {
            generate(alias, challenge, strongBox)
            requireHardware(alias)
            val key = key(alias) ?: throw ProviderException("the key that was made is not there")
            requireAgreement(key)
            val chain = store.getCertificateChain(alias).orEmpty().map { it.encoded }
            return Made(alias, key, chain).also { good = true }
        } finally {
            if (!good) discard(alias)
        }
    }

    /** The app's own code, which may throw whatever it likes: that says nothing about the hardware, and may go well later. */
    @Suppress("TooGenericExceptionCaught", "SwallowedException")
    private fun ask(
        integrityToken: (ByteArray) -> String,
        digest: ByteArray,
    ): String =
        try {
            integrityToken(digest)
        } catch (failed: Exception) {
            // Its message may hold a token.
            val kind = failed.javaClass.simpleName
            throw CoreLockerException(ErrorCode.DEVICE_BUSY, "the app's integrityToken gives no token now ($kind); try again online")
        }

    /** A key that stays behind goes with the next [keepOnly]. */
    private fun discard(alias: String) {
        try {
            store.deleteEntry(alias)
        } catch (_: KeyStoreException) {
            // What made the key useless is what the caller hears of.
        }
    }

    private fun generate(
        alias: String,
        challenge: ByteArray,
        strongBox: Boolean,
    ) {
        val spec =
            KeyGenParameterSpec
                .Builder(alias, KeyProperties.PURPOSE_AGREE_KEY)
                .setAlgorithmParameterSpec(ECGenParameterSpec("secp256r1"))
                .setAttestationChallenge(challenge)
                .setIsStrongBoxBacked(strongBox)
                .build()
        KeyPairGenerator.getInstance(KeyProperties.KEY_ALGORITHM_EC, KEYSTORE).run {
            initialize(spec)
            generateKeyPair()
        }
    }

    /** A KeyMint without agreement makes a key in software, and does not say so. */
    private fun requireHardware(alias: String) {
        val key = store.getKey(alias, null)
        val info = KeyFactory.getInstance(key.algorithm, KEYSTORE).getKeySpec(key, KeyInfo::class.java)
        val level = info.securityLevel
        if (level != KeyProperties.SECURITY_LEVEL_TRUSTED_ENVIRONMENT && level != KeyProperties.SECURITY_LEVEL_STRONGBOX) {
            throw CoreLockerException(ErrorCode.DEVICE_UNSUPPORTED, "this phone makes agreement keys in software alone")
        }
    }

    /** Tries the key once, while the purchase can still go another way. */
    private fun requireAgreement(key: DeviceKey) {
        val other =
            KeyPairGenerator.getInstance("EC").run {
                initialize(ECGenParameterSpec("secp256r1"))
                generateKeyPair()
            }
        val expected =
            KeyAgreement.getInstance("ECDH").run {
                init(other.private)
                doPhase(key.publicKey, true)
                generateSecret()
            }
        if (!key.agree(other.public as ECPublicKey).contentEquals(expected)) {
            throw CoreLockerException(ErrorCode.DEVICE_UNSUPPORTED, "the secure hardware of this phone agrees on wrong keys")
        }
    }

    private class Made(
        val alias: String,
        val key: DeviceKey,
        val chain: List<ByteArray>,
    )

    private class KeystoreKey(
        publicKey: ECPublicKey,
        private val privateKey: PrivateKey,
        private val guard: KeystoreGuard,
    ) : DeviceKey(publicKey) {
        override fun agree(peer: ECPublicKey): ByteArray =
            guard.run {
                KeyAgreement.getInstance("ECDH", KEYSTORE).run {
                    init(privateKey)
                    doPhase(peer, true)
                    generateSecret()
                }
            }
    }

    companion object {
        private const val KEYSTORE = "AndroidKeyStore"
        private const val PREFIX = "corelocker."

        /** KeyMint 1.0, the first that agrees on keys. */
        private const val KEYMINT_1 = 100

        /**
         * The keys of this phone, or null where its hardware agrees on none.
         *
         * @param hasFeature whether the phone has a feature of this version or a higher one.
         */
        fun ofPhone(
            hasFeature: (String, Int) -> Boolean,
            integrityToken: ((ByteArray) -> String)?,
        ): Api31DeviceKeys? {
            if (!hasFeature(PackageManager.FEATURE_HARDWARE_KEYSTORE, KEYMINT_1)) return null
            return Api31DeviceKeys(hasFeature(PackageManager.FEATURE_STRONGBOX_KEYSTORE, KEYMINT_1), integrityToken)
        }
    }
}
