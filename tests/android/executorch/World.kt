package org.corelocker.executorch

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonObject
import org.corelocker.core.text
import java.io.File

/** tests/android/world.py: a locked model, and a real unlock service in a process of its own. */
internal class World(
    folder: File,
) : AutoCloseable {
    private val log = File(folder, "world.log")
    private val process =
        ProcessBuilder(
            System.getProperty("corelocker.python"),
            System.getProperty("corelocker.world"),
            File(folder, "world").apply { mkdirs() }.path,
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

    fun grant(): String = ask("""{"do": "grant"}""").text("grant")

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

    override fun close() {
        process.outputStream.close()
        process.waitFor()
    }
}
