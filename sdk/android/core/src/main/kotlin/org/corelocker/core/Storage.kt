package org.corelocker.core

import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.nio.file.Files
import java.nio.file.NoSuchFileException
import java.nio.file.StandardCopyOption

/**
 * Where the license of each key bundle survives a restart, and the names of device keys that may hold a place of a purchase.
 * It never holds a key or a restored byte. [LicenseFiles] is one.
 *
 * ```
 * class InMemory : LicenseStore {
 *     private val licenses = ConcurrentHashMap<String, String>()
 *     private val attempts = ConcurrentHashMap<String, List<String>>()
 *     override fun load(bundle: String) = licenses[bundle]
 *     override fun save(bundle: String, license: String) { licenses[bundle] = license }
 *     override fun remove(bundle: String) { licenses.remove(bundle) }
 *     override fun all() = licenses.values.toList()
 *     override fun loadAttempts(bundle: String) = attempts[bundle].orEmpty()
 *     override fun saveAttempts(bundle: String, thumbprints: List<String>) { attempts[bundle] = thumbprints.toList() }
 *     override fun allAttempts() = attempts.values.flatten()
 * }
 * ```
 */
public interface LicenseStore {
    /** The license of a key bundle, or null. */
    public fun load(bundle: String): String?

    /** Keeps a license; one that was there is replaced as a whole. */
    public fun save(
        bundle: String,
        license: String,
    )

    /** Drops the license of a key bundle, if there is one. */
    public fun remove(bundle: String)

    /** The licenses of all key bundles. */
    public fun all(): List<String>

    /** Thumbprints of the device keys of unlocks of a key bundle whose answer is not known, oldest first; they are no secrets. */
    public fun loadAttempts(bundle: String): List<String>

    /** Keeps them in the place of those before; an empty list drops them. */
    public fun saveAttempts(
        bundle: String,
        thumbprints: List<String>,
    )

    /** Those of all key bundles. */
    public fun allAttempts(): List<String>
}

/**
 * Keeps licenses, the names of keys and the mark of the clock in a folder that belongs to the app alone. Writes are atomic:
 * after a crash the old or the new file is there, whole.
 *
 * ```
 * val files = LicenseFiles(File(context.noBackupFilesDir, "corelocker"))
 * ```
 */
public class LicenseFiles(
    private val folder: File,
) : LicenseStore,
    ClockMarkStore {
    private val mark = File(folder, "clock.json")

    override fun load(bundle: String): String? = read(file(bundle, LICENSE))?.toString(Charsets.ISO_8859_1)

    override fun save(
        bundle: String,
        license: String,
    ): Unit = write(file(bundle, LICENSE), license.toByteArray())

    override fun remove(bundle: String): Unit = remove(file(bundle, LICENSE))

    override fun all(): List<String> = bundles(LICENSE).mapNotNull(::load)

    /** What is no thumbprint there is left out: a key that is not named costs a place, and nothing more. */
    override fun loadAttempts(bundle: String): List<String> =
        read(file(bundle, ATTEMPTS))
            ?.toString(Charsets.ISO_8859_1)
            ?.lines()
            ?.filter(THUMBPRINT::matches)
            .orEmpty()

    override fun saveAttempts(
        bundle: String,
        thumbprints: List<String>,
    ) {
        val file = file(bundle, ATTEMPTS)
        if (thumbprints.isEmpty()) remove(file) else write(file, thumbprints.joinToString("\n").toByteArray())
    }

    override fun allAttempts(): List<String> = bundles(ATTEMPTS).flatMap(::loadAttempts)

    override fun loadMark(): ClockMark? {
        val data = read(mark) ?: return null
        val fields = Fields.parse(data, "the record of the time", ErrorCode.LICENSE_CLOCK)

        fun number(name: String) = fields.integer(name, 0..StrictJson.MAX_INTEGER)
        return ClockMark(number("time"), number("ticks"), fields.text("boot", MAX_BOOT))
    }

    override fun saveMark(mark: ClockMark) {
        val json =
            buildJsonObject {
                put("time", mark.time)
                put("ticks", mark.ticks)
                put("boot", mark.boot)
            }
        write(this.mark, json.toString().toByteArray())
    }

    override fun removeMark(): Unit = remove(mark)

    private fun file(
        bundle: String,
        suffix: String,
    ): File {
        require(BUNDLE.matches(bundle)) { "a key bundle's id is a UUID" }
        return File(folder, bundle + suffix)
    }

    private fun bundles(suffix: String): List<String> =
        folder
            .listFiles { file -> file.name.endsWith(suffix) }
            .orEmpty()
            .sorted()
            .map { it.name.removeSuffix(suffix) }

    private fun read(file: File): ByteArray? =
        try {
            if (Files.size(file.toPath()) > MAX_SIZE) throw IOException("longer than $MAX_SIZE bytes")
            Files.readAllBytes(file.toPath())
        } catch (_: NoSuchFileException) {
            null
        } catch (_: IOException) {
            throw CoreLockerException(ErrorCode.FILE_ACCESS, "${file.name} cannot be read")
        }

    @Synchronized
    private fun write(
        file: File,
        data: ByteArray,
    ) {
        val fresh = File(folder, "${file.name}.new")
        try {
            Files.createDirectories(folder.toPath())
            FileOutputStream(fresh).use {
                it.write(data)
                it.fd.sync()
            }
            Files.move(fresh.toPath(), file.toPath(), StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING)
        } catch (_: IOException) {
            fresh.delete()
            throw CoreLockerException(ErrorCode.FILE_ACCESS, "${file.name} cannot be written")
        }
    }

    private fun remove(file: File) {
        try {
            Files.deleteIfExists(file.toPath())
        } catch (_: IOException) {
            throw CoreLockerException(ErrorCode.FILE_ACCESS, "${file.name} cannot be removed")
        }
    }

    private companion object {
        const val LICENSE = ".jws"
        const val ATTEMPTS = ".attempts"
        const val MAX_SIZE = 16 shl 10
        const val MAX_BOOT = 256
        val BUNDLE = Regex("[0-9a-f-]{36}")
        val THUMBPRINT = Regex("[A-Za-z0-9_-]{43}")
    }
}
