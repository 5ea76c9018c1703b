package org.corelocker.core

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

internal class LicenseFilesTest {
    @TempDir
    lateinit var folder: File

    private val id = "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
    private val other = "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e60"

    @Test
    fun `keeps, replaces and removes licenses`() {
        val store = LicenseFiles(File(folder, "new"))
        assertNull(store.load(id))
        assertEquals(emptyList<String>(), store.all())
        store.save(id, "first")
        store.save(id, "second")
        store.save(other, "third")
        assertEquals(listOf("second", "third"), LicenseFiles(File(folder, "new")).all())
        store.remove(id)
        store.remove(id)
        assertNull(store.load(id))
        assertEquals(listOf("third"), store.all())
    }

    @Test
    fun `keeps the names of keys, apart from the licenses`() {
        val store = LicenseFiles(folder)
        val (first, second) = "a".repeat(43) to "b".repeat(43)
        assertEquals(emptyList<String>(), store.loadAttempts(id))
        store.saveAttempts(id, listOf(first, second))
        store.saveAttempts(other, listOf(first))
        store.save(id, "license")
        assertEquals(listOf(first, second), LicenseFiles(folder).loadAttempts(id))
        assertEquals(listOf(first, second, first), store.allAttempts())
        assertEquals(listOf("license"), store.all())
        store.remove(id)
        assertEquals(listOf(first, second), store.loadAttempts(id))
        store.saveAttempts(id, emptyList())
        store.saveAttempts(id, emptyList())
        assertEquals(listOf("$other.attempts"), folder.list()?.toList())
        File(folder, "$other.attempts").writeText("damaged\n$second\n")
        assertEquals(listOf(second), store.loadAttempts(other))
    }

    @Test
    fun `keeps the mark`() {
        val store = LicenseFiles(folder)
        assertNull(store.loadMark())
        val mark = ClockMark(1_800_000_000, 77, "boot \"1\"")
        store.saveMark(mark)
        assertEquals(mark, LicenseFiles(folder).loadMark())
        File(folder, "clock.json").writeText("{}")
        assertEquals("license-clock", outcome { store.loadMark() })
        store.removeMark()
        assertNull(store.loadMark())
    }

    @Test
    fun `a write that fails leaves the old license, and nothing beside it`() {
        val store = LicenseFiles(folder)
        store.save(id, "old")
        File(folder, "$id.jws.new").mkdir()
        assertEquals("file-access", outcome { store.save(id, "new") })
        assertEquals("old", store.load(id))
        assertEquals(listOf("$id.jws"), folder.list()?.toList())
    }

    @Test
    fun `refuses what is no license`() {
        val store = LicenseFiles(folder)
        File(folder, "$id.jws").writeText("x".repeat(20_000))
        assertEquals("file-access", outcome { store.load(id) })
        assertThrows(IllegalArgumentException::class.java) { store.load("../clock.json") }
    }
}
