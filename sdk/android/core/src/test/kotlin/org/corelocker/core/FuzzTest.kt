package org.corelocker.core

import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.io.File
import java.nio.file.Files
import kotlin.random.Random
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.TimeSource

/**
 * Each reader of foreign bytes gets damaged forms of good ones, for `corelocker.fuzzMillis` each. It may accept or refuse them,
 * by the codes of its format; anything else is a bug.
 */
internal class FuzzTest {
    private val licenses = Vectors.load("license.json")
    private val keys = TrustedKeys(licenses.list("service_keys").map { checkNotNull(Jwk.keyOrNull(it)) })

    @Test
    fun licenses() =
        fuzz("license", licenses.objects("vectors").map { it.text("token").toByteArray() }) { data ->
            License.read(data.toString(Charsets.ISO_8859_1), keys)
        }

    @Test
    fun bundles() =
        fuzz("bundle", Vectors.load("bundle.json").objects("vectors").map { it.base64("bundle") }) { data ->
            KeyBundle.open(data, null)
        }

    @Test
    fun configurations() =
        fuzz("app-config", Vectors.load("app_config.json").objects("vectors").map { it.base64("file") }) { AppConfig.parse(it) }

    @Test
    fun problems() {
        val answers =
            Vectors
                .load("flow.json")
                .objects("vectors")
                .flatMap { it.objects("steps") }
                .filter { it["answer"].isGiven() }
        val seeds = answers.map { it.child("answer").text("body").toByteArray() }
        fuzz("", seeds) { ServiceProblem.read(it) }
        fuzz("service-protocol", seeds) { ServiceProblem.parse(it) }
    }

    @Test
    fun marks() {
        val folder = Files.createTempDirectory("marks").toFile()
        val store = LicenseFiles(folder)
        store.saveMark(ClockMark(1_800_000_000, 5, "boot"))
        val file = File(folder, "clock.json")
        fuzz("license-clock", listOf(file.readBytes())) { data ->
            file.writeBytes(data)
            store.loadMark()
        }
        folder.deleteRecursively()
    }

    @Test
    fun sealed() {
        val file = Vectors.load("hpke_wrap.json")
        val device = SoftwareKey.of(file.child("device_key"))
        val vectors = file.objects("vectors").filter { it.text("expect") == "ok" }
        val seeds = vectors.map { checkNotNull(Base64Url.decodeOrNull(it.text("wk"))) }
        fuzz("license-wrap", seeds) { data -> device.open(data, vectors.first().hex("info")) }
    }

    private fun fuzz(
        codes: String,
        seeds: List<ByteArray>,
        read: (ByteArray) -> Unit,
    ) = fuzz(codes) { random -> read(damage(seeds.random(random), seeds, random)) }
}

private const val SYNTAX = "\"\\{}[]:,0-e.A\u0000"

/** [seed] with one to four changes: cut, shortened, lengthened, crossed with another seed, or some bytes replaced. */
internal fun damage(
    seed: ByteArray,
    seeds: List<ByteArray>,
    random: Random,
): ByteArray {
    var data = seed.copyOf()
    repeat(random.nextInt(1, 5)) {
        val at = if (data.isEmpty()) 0 else random.nextInt(data.size)
        data =
            when (random.nextInt(6)) {
                0 -> data.copyOf(at)
                1 -> data.copyOfRange(0, at) + data.copyOfRange(minOf(data.size, at + random.nextInt(1, 9)), data.size)
                2 -> data.copyOfRange(0, at) + random.nextBytes(random.nextInt(1, 9)) + data.copyOfRange(at, data.size)
                3 -> data.copyOfRange(0, at) + seeds.random(random).let { it.copyOfRange(minOf(at, it.size), it.size) }
                4 -> data.also { if (it.isNotEmpty()) it[at] = SYNTAX.random(random).code.toByte() }
                else -> data.also { if (it.isNotEmpty()) it[at] = (it[at].toInt() xor (1 shl random.nextInt(8))).toByte() }
            }
    }
    return data
}

/** Runs for `corelocker.fuzzMillis`, and a hundred times at least; what is refused has one of the codes that begin with [codes]. */
internal fun fuzz(
    codes: String,
    run: (Random) -> Unit,
) {
    val budget = System.getProperty("corelocker.fuzzMillis", "1000").toInt().milliseconds
    val random = Random(17)
    val end = TimeSource.Monotonic.markNow() + budget
    var runs = 0
    while (end.hasNotPassedNow() || runs < 100) {
        repeat(10) {
            val result = outcome { run(random) }
            assertTrue(result == "ok" || (codes != "" && result.startsWith(codes)), result)
            runs++
        }
    }
}
