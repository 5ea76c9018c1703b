package org.corelocker.android

import android.content.res.AssetManager
import org.corelocker.core.Attestation
import org.corelocker.core.AttestedKey
import org.corelocker.core.CoreLockerException
import org.corelocker.core.DeviceKey
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.UnlockRequest
import java.io.File
import java.io.IOException
import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.KeyPairGenerator
import java.security.PrivateKey
import java.security.Signature
import java.security.cert.CertificateException
import java.security.cert.CertificateFactory
import java.security.interfaces.ECPublicKey
import java.security.spec.ECGenParameterSpec
import java.security.spec.PKCS8EncodedKeySpec
import java.security.spec.X509EncodedKeySpec
import java.util.Base64
import javax.crypto.KeyAgreement

/**
 * The development key of the asset `corelocker-development.pem`, where a debug build carries one; the phone's own keys otherwise.
 */
internal fun developmentKeys(
    assets: AssetManager,
    folder: File,
): DeviceKeys? {
    val pem =
        try {
            assets.open("corelocker-development.pem").use { it.readBytes() }
        } catch (_: IOException) {
            return null
        }
    return DevelopmentKeys(pem.toString(Charsets.US_ASCII), folder)
}

/**
 * A device key in software, and a development key that vouches for it: for emulators, and for the tests on the host. Only a
 * service in the development environment takes it, and only debug builds hold this class.
 *
 * @param pem certificate and private key (PKCS #8) of a development attestation key, as `corelocker device` writes them.
 * @param folder where the device key is kept.
 */
internal class DevelopmentKeys(
    pem: String,
    private val folder: File,
) : DeviceKeys {
    private val certificate = section(pem, "CERTIFICATE")
    private val attestationKey = privateKey(section(pem, "PRIVATE KEY"))
    private val key: DeviceKey by lazy(::loadOrMake)

    init {
        try {
            CertificateFactory.getInstance("X.509").generateCertificate(certificate.inputStream())
        } catch (_: CertificateException) {
            throw damaged("the certificate of the development key")
        }
    }

    override fun find(thumbprint: String): DeviceKey? = key.takeIf { it.thumbprint == thumbprint }

    override fun attest(request: UnlockRequest): AttestedKey {
        val data = DOMAIN + request.digest(key.thumbprint)
        val signature =
            Signature.getInstance("SHA256withECDSA").run {
                initSign(attestationKey)
                update(data)
                sign()
            }
        return AttestedKey(key, Attestation.development(certificate, signature))
    }

    /** There is one key; another service's license may name it. */
    override fun keepOnly(thumbprints: Set<String>) = Unit

    private fun loadOrMake(): DeviceKey {
        val (public, private) = File(folder, "development.pub") to File(folder, "development.key")
        try {
            if (!private.exists()) {
                val pair =
                    KeyPairGenerator.getInstance("EC").run {
                        initialize(ECGenParameterSpec("secp256r1"))
                        generateKeyPair()
                    }
                folder.mkdirs()
                public.writeBytes(pair.public.encoded)
                private.writeBytes(pair.private.encoded)
            }
            val publicKey = KeyFactory.getInstance("EC").generatePublic(X509EncodedKeySpec(public.readBytes()))
            return SoftwareKey(publicKey as ECPublicKey, privateKey(private.readBytes()))
        } catch (_: IOException) {
            throw CoreLockerException(ErrorCode.FILE_ACCESS, "the development key cannot be read or written")
        } catch (_: GeneralSecurityException) {
            throw damaged("this phone's development key")
        } catch (_: IllegalArgumentException) {
            throw damaged("this phone's development key") // a key of another curve
        }
    }

    private class SoftwareKey(
        publicKey: ECPublicKey,
        private val privateKey: PrivateKey,
    ) : DeviceKey(publicKey) {
        override fun agree(peer: ECPublicKey): ByteArray =
            KeyAgreement.getInstance("ECDH").run {
                init(privateKey)
                doPhase(peer, true)
                generateSecret()
            }
    }

    private companion object {
        val DOMAIN = "corelocker development attestation v1\u0000".toByteArray()

        fun section(
            pem: String,
            name: String,
        ): ByteArray {
            val body = pem.substringAfter("-----BEGIN $name-----", "").substringBefore("-----END $name-----", "")
            if (body.isBlank()) throw CoreLockerException(ErrorCode.FILE_ACCESS, "the development key's PEM holds no $name")
            return try {
                Base64.getMimeDecoder().decode(body)
            } catch (_: IllegalArgumentException) {
                throw damaged("the development key's PEM")
            }
        }

        fun privateKey(data: ByteArray): PrivateKey =
            try {
                KeyFactory.getInstance("EC").generatePrivate(PKCS8EncodedKeySpec(data))
            } catch (_: GeneralSecurityException) {
                throw damaged("a development key")
            }

        fun damaged(what: String) = CoreLockerException(ErrorCode.FILE_ACCESS, "$what is damaged")
    }
}
