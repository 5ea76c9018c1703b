package org.corelocker.android

import android.util.Base64
import kotlinx.coroutines.runBlocking
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.Purchase
import org.corelocker.core.UnlockResult
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.ByteArrayInputStream
import java.security.KeyPairGenerator
import java.security.KeyStore
import java.security.cert.CertificateFactory
import java.security.cert.X509Certificate

/** The Keystore of the phone, or of the emulator, whose keys are in software: then the answer is typed. */
internal class DeviceKeysOnPhoneTest {
    /** How an unlock ends, and what was sent of it. */
    private fun unlock(keys: DeviceKeys): Pair<ErrorCode, JSONObject?> =
        Phone.refusingService().use { server ->
            val client = Phone.client(keys, "http://${server.hostName}:${server.port}")
            val result = runBlocking { client.unlock(Purchase.grant("a.b.c")) } as UnlockResult.Refused
            server.takeRequest()
            val sent = if (server.requestCount < 2) null else JSONObject(checkNotNull(server.takeRequest().body).utf8())
            result.error.code to sent
        }

    private fun aliases(): List<String> {
        val store = KeyStore.getInstance("AndroidKeyStore").apply { load(null) }
        return store.aliases().toList().filter { it.startsWith("corelocker.") }
    }

    @Test
    fun theHardwareAttestsAKeyOrTheAnswerSaysWhyNot() {
        val (code, sent) = unlock(DeviceKeysOfPhone.choose(Phone.context.packageManager::hasSystemFeature, null))
        if (sent == null) {
            assertTrue("$code", code == ErrorCode.DEVICE_UNSUPPORTED || code == ErrorCode.DEVICE_BUSY)
        } else {
            assertEquals(ErrorCode.ATTESTATION_REFUSED, code)
            val attestation = sent.getJSONObject("attestation")
            assertEquals("android-key", attestation.getString("format"))
            val leaf = Base64.decode(attestation.getJSONArray("chain").getString(0), Base64.URL_SAFE)
            val certificate = CertificateFactory.getInstance("X.509").generateCertificate(ByteArrayInputStream(leaf)) as X509Certificate
            assertTrue(ATTESTATION in certificate.nonCriticalExtensionOIDs)
        }
        // A call that was refused leaves no key behind.
        assertEquals(emptyList<String>(), aliases())
    }

    @Test
    fun aDevelopmentKeyVouchesForTheEmulator() {
        val (code, sent) = unlock(DevelopmentKeys(developmentPem(), Phone.folder()))
        assertEquals(ErrorCode.ATTESTATION_REFUSED, code)
        val attestation = checkNotNull(sent).getJSONObject("attestation")
        assertEquals("development", attestation.getString("format"))
        assertEquals("P-256", sent.getJSONObject("device_key").getString("crv"))
    }

    /** Some certificate, and a key; the service of these tests looks at neither. */
    private fun developmentPem(): String {
        val key =
            KeyPairGenerator
                .getInstance("EC")
                .generateKeyPair()
                .private.encoded
        val certificate = certificateOfTheSystem()
        return pem("CERTIFICATE", certificate) + pem("PRIVATE KEY", key)
    }

    private fun certificateOfTheSystem(): ByteArray {
        val store = KeyStore.getInstance("AndroidCAStore").apply { load(null) }
        return store.getCertificate(store.aliases().nextElement()).encoded
    }

    private fun pem(
        name: String,
        data: ByteArray,
    ) = "-----BEGIN $name-----\n${Base64.encodeToString(data, Base64.DEFAULT)}-----END $name-----\n"

    private companion object {
        const val ATTESTATION = "1.3.6.1.4.1.11129.2.1.17"
    }
}
