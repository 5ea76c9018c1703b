package org.corelocker.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonArray
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.put
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test

internal class AppConfigTest {
    private fun verdict(vararg changes: Pair<String, JsonElement?>): String {
        val members = GOOD.toMutableMap()
        for ((name, value) in changes) if (value == null) members.remove(name) else members[name] = value
        return outcome { AppConfig.parse(JsonObject(members).toString().toByteArray()) }
    }

    private fun text(value: String) = JsonPrimitive(value)

    @Test
    fun `reads what the service wrote`() {
        val config = AppConfig.parse(GOOD.toString().toByteArray())
        assertEquals("https://unlock.example.com/base", config.service)
        assertEquals("issuer", config.issuer)
        assertEquals("com.example.camera", config.app)
        assertEquals(Environment.PRODUCTION, config.environment)
        assertEquals(0, config.offlineGraceSeconds)
        assertEquals(1, config.licenseKeys.candidates(null).size)
    }

    @Test
    fun `takes what the format allows`() {
        assertEquals("ok", verdict("more" to text("unknown")))
        assertEquals("ok", verdict("version" to text("1.77")))
        assertEquals("ok", verdict("offline_grace" to JsonPrimitive(31_536_000)))
        assertEquals("ok", verdict("environment" to text("development"), "service" to text("http://10.0.2.2:8080")))
    }

    @Test
    fun `refuses everything else`() {
        val wrong =
            GOOD.keys.map { it to null } +
                listOf(
                    "format" to text("corelocker-key-bundle"),
                    "version" to text("2.0"),
                    "version" to JsonPrimitive(1),
                    "service" to text("http://unlock.example.com"),
                    "service" to text("ftp://unlock.example.com"),
                    "service" to text("https://"),
                    "service" to text("https://unlock.example.com/?a"),
                    "service" to text("https://unlock.example.com/#a"),
                    "service" to text("https://user@unlock.example.com"),
                    "service" to text("https://unlock.example.com/" + "a".repeat(2048)),
                    "issuer" to text(""),
                    "app" to text("a".repeat(257)),
                    "environment" to text("staging"),
                    "license_keys" to buildJsonObject { put("keys", buildJsonArray {}) },
                    "license_keys" to Vectors.load("license.json").getValue("device_key"),
                    "license_keys" to
                        buildJsonObject { put("keys", buildJsonArray { add(Vectors.load("license.json").getValue("device_key")) }) },
                    "publisher" to text("short"),
                    "publisher" to text("=".repeat(43)),
                    "offline_grace" to JsonPrimitive(-1),
                    "offline_grace" to JsonPrimitive(31_536_001),
                    "offline_grace" to text("0"),
                )
        for (change in wrong) assertEquals("app-config", verdict(change), "$change")
        assertEquals("app-config", outcome { AppConfig.parse(ByteArray(70_000) { ' '.code.toByte() }) })
        assertEquals("app-config", outcome { AppConfig.parse("{\"format\":1,\"format\":1}".toByteArray()) })
    }

    companion object {
        /** A good configuration. */
        val GOOD: JsonObject =
            Json
                .parseToJsonElement(
                    """
                    {"format": "corelocker-app-config", "version": "1.0", "service": "https://unlock.example.com/base/",
                     "issuer": "issuer", "app": "com.example.camera", "environment": "production",
                     "license_keys": {"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                     "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}, "publisher": "89Aj91QY-dr-8IHqi8Omb99c0qDV2ah_Svz3ibq64NM"}
                    """,
                ).jsonObject
    }
}
