package org.corelocker.android

import android.os.Build
import android.security.keystore.BackendBusyException
import android.security.keystore.KeyPermanentlyInvalidatedException
import android.security.keystore.KeyProperties
import org.corelocker.core.CoreLockerException
import org.corelocker.core.DeviceKeys
import org.corelocker.core.ErrorCode
import org.corelocker.core.UnlockRequest
import org.corelocker.core.outcome
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertSame
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import java.io.IOException
import java.security.InvalidAlgorithmParameterException
import java.security.ProviderException
import java.security.spec.ECGenParameterSpec

/** The real Keystore code, over Android's own KeyGenParameterSpec and a fake provider. */
internal class KeystoreTest {
    private val request = UnlockRequest("challenge-1", "com.example.camera", "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f", "full", "token")

    @BeforeEach
    fun install() = FakeKeystore.install()

    private fun keys(strongBox: Boolean = false) = Api31DeviceKeys(strongBox)

    @Test
    fun `makes a key that agrees and nothing else, for the challenge of the request`() {
        val attested = keys().attest(request)
        val spec = FakeKeystore.specs.values.single()
        assertEquals(KeyProperties.PURPOSE_AGREE_KEY, spec.purposes)
        assertArrayEquals(request.digest(null), spec.attestationChallenge)
        assertEquals("secp256r1", (spec.algorithmParameterSpec as ECGenParameterSpec).name)
        assertEquals(false, spec.isStrongBoxBacked)
        assertEquals(attested.key.thumbprint, keys().find(attested.key.thumbprint)?.thumbprint)
        assertNull(keys().find("x".repeat(43)))
    }

    @Test
    fun `takes the StrongBox where there is one, and the TEE where it fails`() {
        fun isInStrongBox() =
            FakeKeystore.pairs.keys
                .single()
                .let { FakeKeystore.specs.getValue(it).isStrongBoxBacked }
        keys(strongBox = true).attest(request)
        assertTrue(isInStrongBox())
        val failures =
            listOf<() -> Unit>(
                { FakeKeystore.strongBoxFails = FakeKeystore.unavailable },
                { FakeKeystore.strongBoxFails = ProviderException("unknown purpose") },
                { FakeKeystore.strongBoxLevel = KeyProperties.SECURITY_LEVEL_SOFTWARE },
                { FakeKeystore.strongBoxAgreesWrongly = true },
            )
        for (fail in failures) {
            FakeKeystore.install()
            fail()
            assertNotNull(keys(strongBox = true).attest(request))
            assertFalse(isInStrongBox())
        }
    }

    @Test
    fun `refuses keys in software, and leaves none behind`() {
        for (level in listOf(KeyProperties.SECURITY_LEVEL_SOFTWARE, KeyProperties.SECURITY_LEVEL_UNKNOWN)) {
            FakeKeystore.level = level
            assertEquals("device-unsupported", outcome { keys().attest(request) })
            assertTrue(FakeKeystore.pairs.isEmpty())
        }
        FakeKeystore.level = KeyProperties.SECURITY_LEVEL_STRONGBOX
        assertEquals("ok", outcome { keys().attest(request) })
    }

    @Test
    fun `refuses hardware that agrees wrongly`() {
        FakeKeystore.agreesWrongly = true
        assertEquals("device-unsupported", outcome { keys().attest(request) })
        assertTrue(FakeKeystore.pairs.isEmpty())
    }

    /** A failure of the Keystore as the framework wraps it: 25 and 26 are its own words for "no attestation keys", 10 is KeyMint's. */
    private fun failure(response: Int) = ProviderException("secret words", android.security.KeyStoreException(response, "more of them"))

    @Test
    fun `tells failures that pass from those that stay`() {
        val (passing, lasting) = failure(OUT_OF_KEYS_FOR_NOW) to failure(OUT_OF_KEYS)
        val cases =
            listOf(
                Triple(passing, 33, "device-busy"),
                Triple(lasting, 33, "device-unsupported"),
                // Before API 33 that exception is hidden, and says nothing.
                Triple(lasting, 31, "device-busy"),
                Triple(ProviderException("of a vendor"), 36, "device-busy"),
                Triple(BackendBusyException(100), 31, "device-busy"),
                Triple(ProviderException(InvalidAlgorithmParameterException("no such purpose")), 31, "device-unsupported"),
            )
        for ((failure, api, expected) in cases) {
            FakeKeystore.teeFails = failure
            Build.VERSION.SDK_INT = api
            val refused = assertThrows(CoreLockerException::class.java) { keys().attest(request) }
            assertEquals(expected, refused.code.word)
            assertEquals(expected == "device-busy", refused.code.retryable)
            assertFalse("words" in "$refused" || refused.cause != null, "$refused")
            assertTrue(FakeKeystore.pairs.isEmpty())
        }
    }

    @Test
    fun `a key that is gone asks for a new unlock`() {
        val key = keys().attest(request).key
        FakeKeystore.agreementFails = KeyPermanentlyInvalidatedException("a new lock screen")
        assertEquals("license-device", outcome { key.agree(key.publicKey) })
    }

    @Test
    fun `keeps the keys that licenses name`() {
        val (first, second) = List(2) { keys().attest(request).key.thumbprint }
        keys().keepOnly(setOf(second))
        assertNull(keys().find(first))
        assertNotNull(keys().find(second))
        keys().keepOnly(emptySet())
        assertTrue(FakeKeystore.pairs.isEmpty())
    }

    @Test
    fun `asks for a token of Play Integrity for the digest, where the service wants one`() {
        var asked: ByteArray? = null
        Api31DeviceKeys(false) { digest -> "token".also { asked = digest } }.attest(request)
        assertArrayEquals(request.digest(null), asked)
    }

    @Test
    fun `a token of Play Integrity that does not come may come later`() {
        for (failure in listOf(IOException("secret words"), IllegalStateException("secret words"), ProviderException("secret words"))) {
            val keys = Api31DeviceKeys(false) { throw failure }
            val refused = assertThrows(CoreLockerException::class.java) { keys.attest(request) }
            assertEquals(ErrorCode.DEVICE_BUSY, refused.code)
            assertTrue("integrityToken" in "$refused" && "words" !in "$refused" && refused.cause == null, "$refused")
            assertTrue(FakeKeystore.pairs.isEmpty())
        }
    }

    @Test
    fun `a phone without the hardware gets a typed answer`() {
        fun choose(
            api: Int,
            version: Int,
        ): DeviceKeys {
            Build.VERSION.SDK_INT = api
            return DeviceKeysOfPhone.choose({ name, wanted -> name == "android.hardware.hardware_keystore" && version >= wanted }, null)
        }
        assertSame(NoDeviceKeys, choose(30, 100))
        assertSame(NoDeviceKeys, choose(31, 41))
        assertTrue(choose(31, 100) is Api31DeviceKeys)
        assertEquals(ErrorCode.DEVICE_UNSUPPORTED.word, outcome { NoDeviceKeys.attest(request) })
        assertNull(NoDeviceKeys.find("x"))
    }

    private companion object {
        const val OUT_OF_KEYS_FOR_NOW = 25
        const val OUT_OF_KEYS = 26
    }
}
