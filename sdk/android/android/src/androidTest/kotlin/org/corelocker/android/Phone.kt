package org.corelocker.android

import android.content.Context
import android.os.SystemClock
import android.util.Base64
import androidx.test.platform.app.InstrumentationRegistry
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import org.corelocker.core.AppConfig
import org.corelocker.core.ClockReading
import org.corelocker.core.Device
import org.corelocker.core.DeviceKeys
import org.corelocker.core.KeyBundle
import org.corelocker.core.LicenseFiles
import org.corelocker.core.UnlockClient
import org.json.JSONArray
import org.json.JSONObject
import java.io.File
import java.util.UUID

/** The phone or emulator that the tests run on. The vectors of all languages are assets of the tests. */
internal object Phone {
    val context: Context get() = InstrumentationRegistry.getInstrumentation().targetContext

    fun vectors(name: String): JSONArray {
        val assets = InstrumentationRegistry.getInstrumentation().context.assets
        return JSONObject(assets.open(name).use { it.readBytes() }.toString(Charsets.UTF_8)).getJSONArray("vectors")
    }

    fun objects(array: JSONArray): List<JSONObject> = List(array.length(), array::getJSONObject)

    fun bytes(
        vector: JSONObject,
        name: String,
    ): ByteArray = Base64.decode(vector.getString(name), Base64.DEFAULT)

    /** A folder of the app's own that was not there before. */
    fun folder(): File = File(context.cacheDir, UUID.randomUUID().toString()).apply { mkdirs() }

    fun bundleVector(): JSONObject = objects(vectors("bundle.json")).first { it.getString("name") == "restores-large" }

    /** The name of its one locked file. */
    val artifact: String get() =
        KeyBundle
            .open(bytes(bundleVector(), "bundle"), null)
            .artifacts
            .first()
            .name

    /** A client of a service at [url], for the bundle of the vector. */
    fun client(
        keys: DeviceKeys,
        url: String,
    ): UnlockClient {
        val bundle = KeyBundle.open(bytes(bundleVector(), "bundle"), null)
        val vector = objects(vectors("app_config.json")).first { it.getString("expect") == "ok" }
        val config = JSONObject(bytes(vector, "file").toString(Charsets.UTF_8))
        config.put("service", url).put("environment", "development").put("publisher", bundle.publisher)
        val files = LicenseFiles(folder())
        val clock = { ClockReading(System.currentTimeMillis() / 1000, SystemClock.elapsedRealtime() / 1000, "boot") }
        return UnlockClient(AppConfig.parse(config.toString().toByteArray()), bundle, Device(keys, files, files, clock))
    }

    /** A service that hands out a challenge, and then refuses. */
    fun refusingService(): MockWebServer =
        MockWebServer().apply {
            start()
            enqueue(answer(201, """{"challenge": "challenge-1", "expires_at": 1}"""))
            enqueue(answer(422, """{"type": "urn:corelocker:problem:attestation-refused", "title": "Refused", "status": 422}"""))
        }

    private fun answer(
        status: Int,
        body: String,
    ) = MockResponse
        .Builder()
        .code(status)
        .body(body)
        .build()
}
