package org.corelocker.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import org.junit.jupiter.api.DynamicTest
import java.io.File
import java.util.Base64
import java.util.HexFormat

/** The vectors of tests/vectors, which all languages share. */
internal object Vectors {
    val folder: File = File(System.getProperty("corelocker.vectors", "../../../tests/vectors"))

    fun load(name: String): JsonObject = Json.parseToJsonElement(File(folder, name).readText()).jsonObject

    /** One test for each vector of a file. */
    fun tests(
        file: JsonObject,
        list: String = "vectors",
        run: (JsonObject) -> Unit,
    ): List<DynamicTest> =
        file.list(list).map { vector ->
            DynamicTest.dynamicTest(vector.jsonObject.text("name")) { run(vector.jsonObject) }
        }
}

internal fun JsonObject.text(name: String): String = getValue(name).jsonPrimitive.content

internal fun JsonObject.textOrNull(name: String): String? = get(name)?.takeUnless { it == JsonNull }?.jsonPrimitive?.content

internal fun JsonObject.number(name: String): Long = getValue(name).jsonPrimitive.long

internal fun JsonObject.child(name: String): JsonObject = getValue(name).jsonObject

internal fun JsonObject.list(name: String): JsonArray = getValue(name).jsonArray

internal fun JsonObject.objects(name: String): List<JsonObject> = list(name).map(JsonElement::jsonObject)

internal fun JsonObject.hex(name: String): ByteArray = HexFormat.of().parseHex(text(name))

internal fun JsonObject.base64(name: String): ByteArray = Base64.getDecoder().decode(text(name))

internal fun JsonElement?.isGiven() = this != null && this != JsonNull

/** "ok", or the word of the code that [run] is refused with. */
internal fun outcome(run: () -> Unit): String =
    try {
        run()
        "ok"
    } catch (refused: CoreLockerException) {
        refused.code.word
    }
