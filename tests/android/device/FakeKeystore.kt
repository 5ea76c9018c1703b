package org.corelocker.android

import android.os.Build
import android.security.keystore.KeyGenParameterSpec
import android.security.keystore.KeyInfo
import android.security.keystore.KeyPermanentlyInvalidatedException
import android.security.keystore.KeyProperties
import android.security.keystore.StrongBoxUnavailableException
import sun.misc.Unsafe
import java.io.InputStream
import java.io.OutputStream
import java.security.GeneralSecurityException
import java.security.Key
import java.security.KeyFactory
import java.security.KeyFactorySpi
import java.security.KeyPair
import java.security.KeyPairGenerator
import java.security.KeyPairGeneratorSpi
import java.security.KeyStoreSpi
import java.security.PrivateKey
import java.security.Provider
import java.security.PublicKey
import java.security.SecureRandom
import java.security.Security
import java.security.cert.Certificate
import java.security.spec.AlgorithmParameterSpec
import java.security.spec.ECGenParameterSpec
import java.security.spec.KeySpec
import java.util.Collections
import java.util.Date
import java.util.Enumeration
import javax.crypto.KeyAgreement
import javax.crypto.KeyAgreementSpi
import javax.crypto.SecretKey

/** A provider "AndroidKeyStore" in the memory of the test, over the JDK's elliptic curves. */
internal object FakeKeystore {
    val pairs = LinkedHashMap<String, KeyPair>()
    val specs = LinkedHashMap<String, KeyGenParameterSpec>()

    /** What happens when a key is made in the StrongBox, or in the TEE. */
    var strongBoxFails: RuntimeException? = null
    var teeFails: RuntimeException? = null

    /** What happens when a key agrees. */
    var agreementFails: GeneralSecurityException? = null

    /** A key that was invalidated. */
    var invalidated: Key? = null
    var level = KeyProperties.SECURITY_LEVEL_TRUSTED_ENVIRONMENT
    var strongBoxLevel = KeyProperties.SECURITY_LEVEL_STRONGBOX
    var agreesWrongly = false
    var strongBoxAgreesWrongly = false

    /** The chain above the key's certificate that the hardware would give. */
    var chain: (KeyGenParameterSpec, PublicKey) -> List<ByteArray> = { spec, key -> listOf(spec.attestationChallenge + key.encoded) }

    /** Installs it anew, on a phone of today. */
    fun install() {
        Build.VERSION.SDK_INT = 36
        Security.removeProvider(NAME)
        Security.addProvider(FakeProvider())
        pairs.clear()
        specs.clear()
        strongBoxFails = null
        teeFails = null
        agreementFails = null
        invalidated = null
        level = KeyProperties.SECURITY_LEVEL_TRUSTED_ENVIRONMENT
        strongBoxLevel = KeyProperties.SECURITY_LEVEL_STRONGBOX
        agreesWrongly = false
        strongBoxAgreesWrongly = false
    }

    /** Whether a private key was made for the StrongBox. */
    fun isInStrongBox(key: Key): Boolean = specs.getValue(pairs.entries.first { it.value.private === key }.key).isStrongBoxBacked

    const val NAME = "AndroidKeyStore"
    const val JDK = "SunEC"
    val unavailable = StrongBoxUnavailableException()
}

private class FakeProvider : Provider(FakeKeystore.NAME, "1", "for tests") {
    init {
        put("KeyPairGenerator.EC", Generator::class.java.name)
        put("KeyStore.AndroidKeyStore", Store::class.java.name)
        put("KeyAgreement.ECDH", Agreement::class.java.name)
        put("KeyFactory.EC", Factory::class.java.name)
    }
}

internal class FakeCertificate(
    private val key: PublicKey,
    private val bytes: ByteArray,
) : Certificate("X.509") {
    override fun getEncoded() = bytes

    override fun getPublicKey() = key

    override fun verify(key: PublicKey) = Unit

    override fun verify(
        key: PublicKey,
        provider: String,
    ) = Unit

    override fun toString() = "a certificate"
}

internal class Generator : KeyPairGeneratorSpi() {
    private lateinit var spec: KeyGenParameterSpec

    override fun initialize(
        size: Int,
        random: SecureRandom?,
    ) = error("without a spec")

    override fun initialize(
        parameters: AlgorithmParameterSpec,
        random: SecureRandom?,
    ) {
        spec = parameters as KeyGenParameterSpec
    }

    override fun generateKeyPair(): KeyPair {
        (if (spec.isStrongBoxBacked) FakeKeystore.strongBoxFails else FakeKeystore.teeFails)?.let { throw it }
        val pair =
            KeyPairGenerator.getInstance("EC", FakeKeystore.JDK).run {
                initialize(spec.algorithmParameterSpec as ECGenParameterSpec)
                generateKeyPair()
            }
        FakeKeystore.pairs[spec.keystoreAlias] = pair
        FakeKeystore.specs[spec.keystoreAlias] = spec
        return pair
    }
}

internal class Store : KeyStoreSpi() {
    override fun engineGetKey(
        alias: String,
        password: CharArray?,
    ): Key? = FakeKeystore.pairs[alias]?.private

    override fun engineGetCertificateChain(alias: String): Array<Certificate> {
        val key = FakeKeystore.pairs.getValue(alias).public
        return FakeKeystore.chain(FakeKeystore.specs.getValue(alias), key).map { FakeCertificate(key, it) }.toTypedArray()
    }

    override fun engineGetCertificate(alias: String): Certificate? =
        FakeKeystore.pairs[alias]?.let { FakeCertificate(it.public, ByteArray(0)) }

    override fun engineDeleteEntry(alias: String) {
        FakeKeystore.pairs.remove(alias)
    }

    override fun engineAliases(): Enumeration<String> = Collections.enumeration(FakeKeystore.pairs.keys.toList())

    override fun engineContainsAlias(alias: String) = alias in FakeKeystore.pairs

    override fun engineSize() = FakeKeystore.pairs.size

    override fun engineIsKeyEntry(alias: String) = alias in FakeKeystore.pairs

    override fun engineIsCertificateEntry(alias: String) = false

    override fun engineGetCertificateAlias(certificate: Certificate?): String? = null

    override fun engineGetCreationDate(alias: String): Date? = null

    override fun engineSetKeyEntry(
        alias: String,
        key: Key,
        password: CharArray?,
        chain: Array<out Certificate>?,
    ) = error("keys are made inside")

    override fun engineSetKeyEntry(
        alias: String,
        key: ByteArray,
        chain: Array<out Certificate>?,
    ) = error("keys are made inside")

    override fun engineSetCertificateEntry(
        alias: String,
        certificate: Certificate?,
    ) = error("keys are made inside")

    override fun engineStore(
        stream: OutputStream?,
        password: CharArray?,
    ) = error("nothing is stored")

    override fun engineLoad(
        stream: InputStream?,
        password: CharArray?,
    ) = Unit
}

internal class Agreement : KeyAgreementSpi() {
    private val inner = KeyAgreement.getInstance("ECDH", FakeKeystore.JDK)
    private var isWrong = false

    override fun engineInit(
        key: Key,
        random: SecureRandom?,
    ) {
        FakeKeystore.agreementFails?.let { throw it }
        if (key === FakeKeystore.invalidated) throw KeyPermanentlyInvalidatedException("a new lock screen")
        isWrong = if (FakeKeystore.isInStrongBox(key)) FakeKeystore.strongBoxAgreesWrongly else FakeKeystore.agreesWrongly
        inner.init(key)
    }

    override fun engineInit(
        key: Key,
        parameters: AlgorithmParameterSpec?,
        random: SecureRandom?,
    ) = inner.init(key)

    override fun engineDoPhase(
        key: Key,
        last: Boolean,
    ): Key? = inner.doPhase(key, last)

    override fun engineGenerateSecret(): ByteArray = inner.generateSecret().also { if (isWrong) it[0]++ }

    override fun engineGenerateSecret(
        secret: ByteArray,
        offset: Int,
    ) = inner.generateSecret(secret, offset)

    override fun engineGenerateSecret(algorithm: String): SecretKey = inner.generateSecret(algorithm)
}

internal class Factory : KeyFactorySpi() {
    override fun engineGeneratePublic(spec: KeySpec): PublicKey = KeyFactory.getInstance("EC", FakeKeystore.JDK).generatePublic(spec)

    override fun engineGeneratePrivate(spec: KeySpec): PrivateKey = error("keys are made inside")

    override fun engineTranslateKey(key: Key): Key = key

    /** KeyInfo has no public constructor. */
    override fun <T : KeySpec> engineGetKeySpec(
        key: Key,
        type: Class<T>,
    ): T {
        check(type == KeyInfo::class.java)
        val unsafe =
            Unsafe::class.java
                .getDeclaredField("theUnsafe")
                .apply { isAccessible = true }
                .get(null) as Unsafe
        val info = unsafe.allocateInstance(KeyInfo::class.java)
        KeyInfo::class.java
            .getDeclaredField("mSecurityLevel")
            .apply { isAccessible = true }
            .setInt(info, if (FakeKeystore.isInStrongBox(key)) FakeKeystore.strongBoxLevel else FakeKeystore.level)
        return type.cast(info)
    }
}
