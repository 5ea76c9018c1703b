package org.corelocker.executorch

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import org.corelocker.core.text
import java.io.File
import java.util.Base64
import java.util.HexFormat

/** tests/android/world.py: a locked model, and a real unlock service in a process of its own. It ends with this process. */
internal class World(
    folder: File,
) {
    private val log = File(folder.apply { mkdirs() }, "world.log")
    private val process =
        ProcessBuilder(
            System.getProperty("corelocker.python"),
            System.getProperty("corelocker.world"),
            folder.path,
            System.getProperty("corelocker.model"),
        ).redirectError(log).start()
    private val output = process.inputStream.bufferedReader()
    private val about = answer()

    val config: String get() = about.text("config")
    val bundle = File(about.text("bundle"))
    val locked = File(about.text("locked"))
    val original = File(about.text("original"))
    val input = File(about.text("input"))
    val developmentKey: String get() = about.text("development_key")

    init {
        Runtime.getRuntime().addShutdownHook(
            Thread {
                process.outputStream.close()
                process.waitFor()
            },
        )
    }

    /** @param details members of the request, see world.py. */
    fun grant(vararg details: Pair<String, Any>): String {
        val request = mapOf("do" to JsonPrimitive("grant")) + details.associate { (name, value) -> name to json(value) }
        return ask(JsonObject(request).toString()).text("grant")
    }

    private fun json(value: Any) = if (value is Number) JsonPrimitive(value) else JsonPrimitive(value.toString())

    /** What a license wraps is in no log. */
    fun remember(license: String) {
        val claims = Base64.getUrlDecoder().decode(license.split('.')[1]).toString(Charsets.UTF_8)
        val wrapped = Base64.getUrlDecoder().decode(Json.parseToJsonElement(claims).jsonObject.text("wk"))
        ask("""{"do": "remember", "wrapped_key": "${HexFormat.of().formatHex(wrapped)}"}""")
    }

    fun revoke(license: String) {
        ask("""{"do": "revoke", "license": "$license"}""")
    }

    fun stop() {
        ask("""{"do": "stop"}""")
    }

    fun start() {
        ask("""{"do": "start"}""")
    }

    @Synchronized
    private fun ask(line: String): JsonObject {
        process.outputStream.write("$line\n".toByteArray())
        process.outputStream.flush()
        return answer()
    }

    private fun answer(): JsonObject {
        val line = output.readLine() ?: error("the world ended:\n${log.readText().takeLast(2000)}")
        return Json.parseToJsonElement(line).jsonObject
    }

    companion object {
        /** How many devices a purchase serves: what the service's configuration says. */
        const val DEVICES = 3
    }
}
