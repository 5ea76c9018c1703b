package org.corelocker.core

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/**
 * Takes members of a JSON object by name, type and range, or throws [CoreLockerException] with [code].
 *
 * @property where words that name the object in messages.
 */
internal class Fields(
    val values: JsonObject,
    private val where: String,
    private val code: ErrorCode,
) {
    operator fun contains(name: String): Boolean = name in values

    fun refuse(reason: String): CoreLockerException = CoreLockerException(code, "$where: $reason")

    fun integer(
        name: String,
        range: LongRange,
    ): Long {
        val primitive = values[name] as? JsonPrimitive
        val value = if (primitive == null || primitive.isString) null else primitive.content.toLongOrNull()
        if (value == null || value !in range) throw refuse("$name is no whole number from ${range.first} to ${range.last}")
        return value
    }

    /** Plain text of 1 to [longest] characters. */
    fun text(
        name: String,
        longest: Int,
    ): String = plain(values[name], name, longest)

    fun texts(
        name: String,
        longest: Int,
    ): List<String> = items(name).map { plain(it, "an entry of $name", longest) }

    /** [size] bytes in lower-case hexadecimal. */
    fun hex(
        name: String,
        size: Int,
    ): ByteArray {
        val text = textOrNull(values[name])
        if (text == null || text.length != 2 * size || !text.all { it in '0'..'9' || it in 'a'..'f' }) {
            throw refuse("$name is not $size bytes in lower-case hexadecimal")
        }
        return ByteArray(size) { text.substring(2 * it, 2 * it + 2).toInt(16).toByte() }
    }

    fun base64url(
        name: String,
        size: Int,
    ): ByteArray {
        val data = textOrNull(values[name])?.let(Base64Url::decodeOrNull)
        if (data == null || data.size != size) throw refuse("$name is not $size bytes in base64url")
        return data
    }

    fun child(name: String): Fields = Fields(values[name] as? JsonObject ?: throw refuse("$name is no object"), "$where: $name", code)

    fun objects(name: String): List<Fields> =
        items(name).mapIndexed { index, item ->
            Fields(item as? JsonObject ?: throw refuse("$name[$index] is no object"), "$where: $name[$index]", code)
        }

    private fun items(name: String): JsonArray = values[name] as? JsonArray ?: throw refuse("$name is no list")

    private fun plain(
        value: JsonElement?,
        what: String,
        longest: Int,
    ): String {
        val text = textOrNull(value)
        if (text == null || text.codePointCount(0, text.length) !in 1..longest || text.any(::isControl)) {
            throw refuse("$what is no plain text of 1 to $longest characters")
        }
        return text
    }

    companion object {
        /** Reads an object, or throws [CoreLockerException] with [code]. */
        fun parse(
            data: ByteArray,
            where: String,
            code: ErrorCode,
        ): Fields =
            try {
                Fields(StrictJson.parse(data), where, code)
            } catch (wrong: JsonFormatException) {
                throw CoreLockerException(code, "$where: ${wrong.message}")
            }

        fun textOrNull(value: JsonElement?): String? = (value as? JsonPrimitive)?.takeIf { it.isString }?.content

        /** Controls, line separators and marks that turn the direction of writing (docs/formats.md, JSON). */
        private fun isControl(unit: Char): Boolean =
            unit < '\u0020' || unit in '\u007f'..'\u009f' || unit in '\u200e'..'\u200f' || unit in '\u2028'..'\u202e' ||
                unit in '\u2066'..'\u2069'
    }
}
