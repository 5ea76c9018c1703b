package org.corelocker.android

import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.ErrorCode
import org.corelocker.core.LockState
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test
import java.io.File
import java.io.RandomAccessFile
import java.math.BigInteger
import java.nio.ByteBuffer
import java.nio.ReadOnlyBufferException

/** The native library on the phone: the same vectors as on the host, and a locked file. */
@OptIn(CoreLockerInternal::class)
internal class RestoreOnPhoneTest {
    private fun outcome(action: () -> Unit): String =
        try {
            action()
            "ok"
        } catch (refused: CoreLockerException) {
            refused.code.word
        }

    @Test
    fun patchesHaveTheVerdictOfTheVectors() {
        for (vector in Phone.objects(Phone.vectors("patch.json"))) {
            val data = Phone.bytes(vector, "patch")
            val patch = ByteBuffer.allocateDirect(data.size).put(data)
            val size = BigInteger(vector.getString("file_size")).toLong()
            val verdict = outcome { NativeCore.check(NativeCore.checkPatch(patch, size), "") }
            assertEquals(vector.getString("name"), vector.getString("expect"), verdict)
        }
    }

    @Test
    fun aLockedFileIsReadWhereItLies() {
        val client = Phone.client(NoDeviceKeys, "https://unlock.example.com")
        assertEquals(LockState.Locked, client.state.value)
        val locked = Phone.bytes(Phone.objects(Phone.bundleVector().getJSONArray("restores")).first(), "locked")
        val folder = Phone.folder()
        val file = File(folder, "locked").apply { writeBytes(locked) }
        val models = LockedModels(Phone.context.assets::openFd, Stamps(folder))
        client.patches(Phone.artifact).use { patches ->
            models.restoreFile(file, patches, FullCheck.ALWAYS).use { restored ->
                val bytes = ByteArray(restored.buffer.remaining()).also(restored.buffer.duplicate()::get)
                assertArrayEquals(locked, bytes)
                assertEquals(0, restored.tier)
                assertThrows(ReadOnlyBufferException::class.java) { restored.buffer.put(0, 1) }
                RandomAccessFile(file, "rw").use { it.setLength(it.length() + 1) }
                assertEquals(ErrorCode.FILE_CHANGED.word, outcome(restored::requireUnchanged))
            }
        }
    }
}
