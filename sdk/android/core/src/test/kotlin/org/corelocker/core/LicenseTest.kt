package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.TestFactory
import java.util.HexFormat

/** Licenses against license.json: verdict, state, content key, and the mark that is kept. */
internal class LicenseTest {
    private val file = Vectors.load("license.json")
    private val keys = TrustedKeys(file.list("service_keys").map { checkNotNull(Jwk.keyOrNull(it)) })
    private val device = SoftwareKey.of(file.child("device_key"))

    @TestFactory
    fun licenses() =
        Vectors.tests(file) { vector ->
            val clock = vector.child("clock")
            val store = MemoryStore()
            if (clock["mark"].isGiven()) store.mark = mark(clock.child("mark"))
            val reading = ClockReading(clock.number("wall"), clock.number("ticks"), clock.text("boot"))
            val check = LicenseCheck({ reading }, store)
            val result =
                outcome {
                    val license = License.read(vector.text("token"), keys)
                    val checked = check.check(license, expected(vector.child("expected")))
                    val key = license.open(device)
                    assertEquals(vector.textOrNull("content_key"), HexFormat.of().formatHex(key.bytes))
                    assertEquals(vector.textOrNull("state"), checked.use.name.lowercase())
                }
            assertEquals(vector.text("expect"), result)
            if ("mark_after" in vector) assertEquals(mark(vector.child("mark_after")), store.mark)
        }

    private fun expected(json: JsonObject) =
        ExpectedLicense(
            issuer = json.text("issuer"),
            app = json.text("app"),
            environment = checkNotNull(Environment.of(json.text("environment"))),
            bundle = json.text("bundle"),
            modelVersion = json.number("model_version"),
            device = device.thumbprint,
            offlineGraceSeconds = json.number("offline_grace"),
            tiers = json.list("tiers").map { it.jsonPrimitive.content },
        )

    private fun mark(json: JsonObject) = ClockMark(json.number("time"), json.number("ticks"), json.text("boot"))
}
