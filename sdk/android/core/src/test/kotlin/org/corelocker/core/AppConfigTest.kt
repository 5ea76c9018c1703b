package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.TestFactory

/** App configurations against app_config.json. */
internal class AppConfigTest {
    @TestFactory
    fun configurations() =
        Vectors.tests(Vectors.load("app_config.json")) { vector ->
            val result =
                outcome {
                    val config = AppConfig.parse(vector.base64("file"))
                    check(vector.child("values"), config)
                }
            assertEquals(vector.text("expect"), result)
        }

    private fun check(
        values: JsonObject,
        config: AppConfig,
    ) {
        assertEquals(values.text("service").trimEnd('/'), config.service)
        assertEquals(values.text("issuer"), config.issuer)
        assertEquals(values.text("app"), config.app)
        assertEquals(values.text("environment"), config.environment.name.lowercase())
        assertEquals(values.text("publisher"), config.publisher)
        assertEquals(values.number("offline_grace"), config.offlineGraceSeconds)
        val keys = config.licenseKeys.candidates(null).map { JsonPrimitive(Jwk.thumbprint(it)) }
        assertEquals(values.list("license_keys").map { it.jsonPrimitive }.distinct(), keys)
    }
}
