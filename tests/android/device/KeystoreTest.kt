package org.corelocker.android

import android.security.keystore.KeyProperties
import org.corelocker.core.ErrorCode
import org.corelocker.core.UnlockRequest
import org.corelocker.core.outcome
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertSame
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
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
        keys(strongBox = true).attest(request)
        assertTrue(
            FakeKeystore.specs.values
                .single()
                .isStrongBoxBacked,
        )
        for (failure in listOf(FakeKeystore.unavailable, ProviderException("unknown purpose"))) {
            FakeKeystore.install()
            FakeKeystore.strongBoxFails = failure
            assertNotNull(keys(strongBox = true).attest(request))
            assertEquals(
                false,
                FakeKeystore.specs.values
                    .single()
                    .isStrongBoxBacked,
            )
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
    fun `refuses hardware that agrees wrongly or fails`() {
        FakeKeystore.agreesWrongly = true
        assertEquals("device-unsupported", outcome { keys().attest(request) })
        assertTrue(FakeKeystore.pairs.isEmpty())
        FakeKeystore.teeFails = ProviderException("secret words of the hardware")
        assertEquals("device-unsupported", outcome { keys().attest(request) })
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
    fun `a phone without the hardware gets a typed answer`() {
        fun choose(
            api: Int,
            version: Int,
        ) = DeviceKeysOfPhone.choose(api, { name, wanted -> name == "android.hardware.hardware_keystore" && version >= wanted }, null)
        assertSame(NoDeviceKeys, choose(30, 100))
        assertSame(NoDeviceKeys, choose(31, 41))
        assertTrue(choose(31, 100) is Api31DeviceKeys)
        assertEquals(ErrorCode.DEVICE_UNSUPPORTED.word, outcome { NoDeviceKeys.attest(request) })
        assertNull(NoDeviceKeys.find("x"))
    }
}
