package org.corelocker.core

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

/**
 * Reads JSON that somebody else wrote, by the rules of docs/formats.md, JSON: no double names, no lone surrogates, integers of
 * 53 bits alone, 32 levels. The JSON of kotlinx.serialization takes the last of two members with one name, and a word without
 * quotes as a text; a signed header must have one meaning.
 */
internal class StrictJson private constructor(
    private val text: String,
) {
    private var next = 0

    /** @param levels how many objects and lists may still be opened. */
    private fun value(levels: Int): JsonElement {
        val first = peek()
        if ((first == '{' || first == '[') && levels == 0) fail("it nests too deep")
        return when (first) {
            '{' -> readObject(levels - 1)
            '[' -> readArray(levels - 1)
            '"' -> JsonPrimitive(readText())
            't' -> literal("true", JsonPrimitive(true))
            'f' -> literal("false", JsonPrimitive(false))
            'n' -> literal("null", JsonNull)
            else -> readNumber()
        }
    }

    private fun readObject(levels: Int): JsonObject {
        next++
        val members = LinkedHashMap<String, JsonElement>()
        if (skipIf('}')) return JsonObject(members)
        do {
            if (peek() != '"') fail("a name has no quotes")
            val name = readText()
            if (!skipIf(':')) fail("no colon behind a name")
            if (members.put(name, value(levels)) != null) fail("a name occurs twice")
        } while (skipIf(','))
        if (!skipIf('}')) fail("an object has no end")
        return JsonObject(members)
    }

    private fun readArray(levels: Int): JsonArray {
        next++
        val items = ArrayList<JsonElement>()
        if (skipIf(']')) return JsonArray(items)
        do items.add(value(levels)) while (skipIf(','))
        if (!skipIf(']')) fail("an array has no end")
        return JsonArray(items)
    }

    private fun readText(): String {
        next++
        val out = StringBuilder()
        while (true) {
            val start = next
            while (next < text.length && text[next] != '"' && text[next] != '\\' && text[next] >= ' ') next++
            out.append(text, start, next)
            when (if (next < text.length) text[next++] else fail("a text has no end")) {
                '"' -> break
                '\\' -> out.append(escaped())
                else -> fail("a text holds a control character")
            }
        }
        if (hasLoneSurrogate(out)) fail("a text is not Unicode")
        return out.toString()
    }

    private fun escaped(): Char =
        when (val letter = if (next < text.length) text[next++] else fail("a text has no end")) {
            '"', '\\', '/' -> {
                letter
            }

            'b' -> {
                '\b'
            }

            'f' -> {
                '\u000c'
            }

            'n' -> {
                '\n'
            }

            'r' -> {
                '\r'
            }

            't' -> {
                '\t'
            }

            'u' -> {
                val digits = if (next + 4 <= text.length) text.substring(next, next + 4) else ""
                if (!HEX.matches(digits)) fail("an escape is wrong")
                next += 4
                digits.toInt(16).toChar()
            }

            else -> {
                fail("an escape is wrong")
            }
        }

    private fun readNumber(): JsonPrimitive {
        val number = NUMBER.matchAt(text, next)?.value ?: fail("something is no value")
        next += number.length
        // What follows, such as a fraction, is no end of a value, and is refused there.
        val value = number.toLongOrNull()
        if (value == null || value !in -MAX_INTEGER..MAX_INTEGER) fail("a number is no integer of 53 bits")
        return JsonPrimitive(value)
    }

    private fun literal(
        word: String,
        value: JsonElement,
    ): JsonElement {
        if (!text.startsWith(word, next)) fail("something is no value")
        next += word.length
        return value
    }

    /** The next character that is no white space. */
    private fun peek(): Char {
        while (next < text.length && text[next] in WHITE_SPACE) next++
        return if (next < text.length) text[next] else fail("it ends too early")
    }

    private fun skipIf(wanted: Char): Boolean {
        val found = peek() == wanted
        if (found) next++
        return found
    }

    private fun atEnd(): Boolean {
        while (next < text.length && text[next] in WHITE_SPACE) next++
        return next == text.length
    }

    private fun fail(reason: String): Nothing = throw JsonFormatException(reason)

    companion object {
        /** The largest integer that every reader of JSON keeps exactly (RFC 8259, section 6). */
        const val MAX_INTEGER = (1L shl 53) - 1
        private const val MAX_DEPTH = 32
        private const val WHITE_SPACE = " \t\n\r"
        private val HEX = Regex("[0-9a-fA-F]{4}")
        private val NUMBER = Regex("-?(0|[1-9][0-9]*)")

        /** The object in UTF-8 [data]. Throws [JsonFormatException] for anything else. */
        fun parse(data: ByteArray): JsonObject {
            val text =
                try {
                    Charsets.UTF_8
                        .newDecoder()
                        .decode(ByteBuffer.wrap(data))
                        .toString()
                } catch (_: CharacterCodingException) {
                    throw JsonFormatException("it is not UTF-8")
                }
            val reader = StrictJson(text)
            val value = reader.value(MAX_DEPTH)
            if (!reader.atEnd()) reader.fail("something follows the value")
            return value as? JsonObject ?: reader.fail("it is no object")
        }

        private fun hasLoneSurrogate(text: CharSequence): Boolean {
            var index = 0
            while (index < text.length) {
                val unit = text[index++]
                if (!unit.isSurrogate()) continue
                val pair = unit.isHighSurrogate() && index < text.length && text[index].isLowSurrogate()
                if (!pair) return true
                index++
            }
            return false
        }
    }
}

/** Something is not the JSON that it has to be. The message holds nothing of it. */
internal class JsonFormatException(
    message: String,
) : Exception(message)
