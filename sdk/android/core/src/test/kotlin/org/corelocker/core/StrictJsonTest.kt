package org.corelocker.core

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Test
import kotlin.random.Random

internal class StrictJsonTest {
    private fun parse(text: String) = StrictJson.parse(text.toByteArray())

    @Test
    fun `refuses what has two meanings`() {
        val wrong =
            listOf(
                "", " ", "[]", "1", "null", "{", "}", "{]", "{} {}", "{}x", "{,}", "{\"a\":1,}", "{\"a\":[1,]}", "{\"a\" 1}",
                "{a:1}", "{'a':1}", "{\"a\":b}", "{\"a\":tru}", "{\"a\":NaN}", "{\"a\":-Infinity}", "{\"a\":01}", "{\"a\":1.}",
                "{\"a\":.5}", "{\"a\":+1}", "{\"a\":1e}", "{\"a\":0x1}", "{\"a\":--1}", "{\"a\":\"\t\"}", "{\"a\":\"\\x\"}",
                "{\"a\":\"\\u12\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"", "{\"a\":\"\\", "{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00\\ud800\"}",
                "{\"a\":1,\"a\":1}", "{\"a\":{\"b\":1,\"\\u0062\":2}}", "{\"a\":1}\u0000", "\uFEFF{}", "{\"a\":" + "[".repeat(100_000),
            )
        for (text in wrong) assertThrows(JsonFormatException::class.java, { parse(text) }, text)
        assertThrows(JsonFormatException::class.java) { StrictJson.parse(byteArrayOf(0x7b, 0x22, 0xff.toByte(), 0x22, 0x3a, 0x31, 0x7d)) }
    }

    @Test
    fun `takes whole numbers of 53 bits alone`() {
        val most = StrictJson.MAX_INTEGER
        for (number in listOf(0, 1, -1, most, -most)) {
            assertEquals(JsonPrimitive(number), parse("{\"a\":$number}")["a"])
        }
        for (number in listOf("1.0", "1e3", "${most + 1}", "-${most + 1}", "9".repeat(400))) {
            assertThrows(JsonFormatException::class.java) { parse("{\"a\":$number}") }
        }
    }

    @Test
    fun `nests 32 deep`() {
        fun nested(levels: Int) = "{\"a\":".repeat(levels - 1) + "{}" + "}".repeat(levels - 1)
        parse(nested(32))
        assertThrows(JsonFormatException::class.java) { parse(nested(33)) }
        parse("{\"a\":" + "[".repeat(31) + "]".repeat(31) + "}")
        assertThrows(JsonFormatException::class.java) { parse("{\"a\":" + "[".repeat(32) + "]".repeat(32) + "}") }
    }

    @Test
    fun `reads what is written`() {
        val random = Random(20_261_129)
        repeat(3000) {
            val value = JsonObject(mapOf("value" to element(random, 4)))
            assertEquals(value, parse(value.toString()))
        }
    }

    /** A canonical form reads as the value that it is of, and is its own canonical form. */
    @Test
    fun `canonical forms are canonical`() {
        val random = Random(20_261_130)
        repeat(3000) {
            val value = claims(random, 3)
            val canonical = canonicalJson(value)
            assertEquals(value, StrictJson.parse(canonical))
            assertArrayEquals(canonical, canonicalJson(StrictJson.parse(canonical)))
        }
    }

    private fun claims(
        random: Random,
        depth: Int,
    ): JsonObject =
        JsonObject(
            List(random.nextInt(5)) {
                val name = text(random).filter { unit -> unit < '\u0080' }
                name to
                    when (random.nextInt(if (depth == 0) 2 else 3)) {
                        0 -> JsonPrimitive(random.nextLong(-StrictJson.MAX_INTEGER, StrictJson.MAX_INTEGER))
                        1 -> JsonPrimitive(text(random))
                        else -> claims(random, depth - 1)
                    }
            }.toMap(),
        )

    @Test
    fun `what has no canonical form is refused`() {
        for (text in listOf("{\"a\":[]}", "{\"a\":true}", "{\"a\":null}", "{\"é\":1}", "{\"a\":{\"b\":false}}")) {
            assertThrows(JsonFormatException::class.java, { canonicalJson(parse(text)) }, text)
        }
    }

    private fun element(
        random: Random,
        depth: Int,
    ): JsonElement =
        when (random.nextInt(if (depth == 0) 4 else 6)) {
            0 -> JsonNull
            1 -> JsonPrimitive(random.nextBoolean())
            2 -> JsonPrimitive(random.nextLong(-StrictJson.MAX_INTEGER, StrictJson.MAX_INTEGER))
            3 -> JsonPrimitive(text(random))
            4 -> JsonArray(List(random.nextInt(4)) { element(random, depth - 1) })
            else -> JsonObject(List(random.nextInt(4)) { text(random) to element(random, depth - 1) }.toMap())
        }

    private fun text(random: Random): String =
        buildString {
            repeat(random.nextInt(8)) {
                when (random.nextInt(4)) {
                    0 -> append(random.nextInt(0x20).toChar())
                    1 -> append("\"\\/{}[]:, "[random.nextInt(10)])
                    2 -> appendCodePoint(random.nextInt(0x10000, 0x110000))
                    else -> append(random.nextInt(0xd800).toChar())
                }
            }
        }
}
