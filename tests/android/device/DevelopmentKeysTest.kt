package org.corelocker.android

import org.corelocker.core.UnlockRequest
import org.corelocker.core.Vectors
import org.corelocker.core.damage
import org.corelocker.core.fuzz
import org.corelocker.core.newKeyPair
import org.corelocker.core.outcome
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.util.Base64

/** The development key of a debug build: PEM and DER that somebody may have damaged. */
internal class DevelopmentKeysTest {
    @TempDir
    lateinit var folder: File

    private val request = UnlockRequest("challenge-1", "com.example.camera", "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f", "full", "token")

    private val pem: String by lazy {
        val phone = "attestation/others/android/android_keyattestation/testdata/blueline/sdk28"
        val chain = checkNotNull(Vectors.folder.resolve(phone).listFiles { file -> file.name.endsWith(".pem") }).min().readText()
        chain.substringBefore(END) + END + "\n" + section("PRIVATE KEY", newKeyPair().private.encoded)
    }

    private fun section(
        name: String,
        der: ByteArray,
    ) = "-----BEGIN $name-----\n${Base64.getMimeEncoder().encodeToString(der)}\n-----END $name-----\n"

    @Test
    fun `makes one key, and keeps it`() {
        val key = DevelopmentKeys(pem, folder).attest(request).key
        assertNotNull(DevelopmentKeys(pem, folder).find(key.thumbprint))
        assertNull(DevelopmentKeys(pem, folder).find("x".repeat(43)))
    }

    @Test
    fun `a damaged PEM is refused`() {
        val noCertificate = section("CERTIFICATE", ByteArray(9)) + pem.substringAfter(END)
        for (wrong in listOf("", pem.substringBefore("-----BEGIN PRIVATE"), noCertificate)) {
            assertEquals("file-access", outcome { DevelopmentKeys(wrong, folder) })
        }
        val seeds = listOf(pem.toByteArray())
        fuzz("file-access") { random -> DevelopmentKeys(damage(seeds.single(), seeds, random).toString(Charsets.ISO_8859_1), folder) }
    }

    @Test
    fun `a damaged key of the phone is refused`() {
        DevelopmentKeys(pem, folder).attest(request)
        for (name in listOf("development.pub", "development.key")) {
            val file = File(folder, name)
            val good = file.readBytes()
            fuzz("file-access") { random ->
                file.writeBytes(damage(good, listOf(good), random))
                DevelopmentKeys(pem, folder).find("x".repeat(43))
            }
            file.writeBytes(good)
        }
    }

    private companion object {
        const val END = "-----END CERTIFICATE-----"
    }
}
