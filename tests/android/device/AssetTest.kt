package org.corelocker.android

import android.content.res.AssetFileDescriptor
import android.os.ParcelFileDescriptor
import org.corelocker.core.ContentKey
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.KeyBundle
import org.corelocker.core.Vectors
import org.corelocker.core.base64
import org.corelocker.core.hex
import org.corelocker.core.number
import org.corelocker.core.objects
import org.corelocker.core.outcome
import org.corelocker.core.text
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.io.FileDescriptor
import java.io.IOException
import java.io.RandomAccessFile
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger

/** Bundles and models in assets, by Android's own AssetFileDescriptor. */
@OptIn(CoreLockerInternal::class)
internal class AssetTest {
    @TempDir
    lateinit var folder: File

    private val vector = Vectors.load("bundle.json").objects("vectors").first { it.text("name") == "restores-large" }
    private val restore = vector.objects("restores").first { it.text("expect") == "ok" }
    private val publisher = KeyBundle.open(vector.base64("bundle"), null).publisher
    private val open = AtomicInteger()

    /** Bytes inside a package. */
    private fun asset(bytes: ByteArray): AssetFileDescriptor {
        val inside = File.createTempFile("package", null, folder).apply { writeBytes(ByteArray(PADDING) + bytes + ByteArray(9)) }
        return AssetFileDescriptor(Descriptor(RandomAccessFile(inside, "r"), open), PADDING.toLong(), bytes.size.toLong())
    }

    /** Waits until what nobody holds any more was finalized. */
    private fun collect() {
        val gone = CountDownLatch(1)
        Unheld(gone)
        repeat(100) {
            System.gc()
            if (gone.await(100, TimeUnit.MILLISECONDS)) return
        }
    }

    @Test
    fun `a bundle is read from its asset until it is closed`() {
        val bundle = keyBundle(asset(vector.base64("bundle")), publisher)
        collect()
        assertEquals(1, open.get())
        val assets = mapOf("model" to restore.base64("locked"))
        val models = LockedModels({ asset(assets[it] ?: throw IOException(it)) }, Stamps(folder))
        val place = restore.number("artifact").toInt() to restore.number("file").toInt()
        val tier = restore.number("tier").toInt()
        ContentKey(restore.hex("content_key")).use { bundle.patches(place, it, tier, tier) }.use { patches ->
            models.restoreAsset("model", patches, FullCheck.AUTOMATIC).use { restored ->
                val buffer = restored.buffer.duplicate()
                assertArrayEquals(restore.base64("restored"), ByteArray(buffer.remaining()).also(buffer::get))
            }
            assertEquals(1, open.get(), "the model's asset stays open")
            assertEquals("file-access", outcome { models.restoreAsset("another", patches, FullCheck.OFF) })
        }
        bundle.close()
        assertEquals(0, open.get())
    }

    @Test
    fun `a bundle that is refused leaves nothing open`() {
        assertEquals("bundle-publisher", outcome { keyBundle(asset(vector.base64("bundle")), "x".repeat(43)) })
        assertEquals("bundle-magic", outcome { keyBundle(asset(ByteArray(1000)), publisher) })
        assertEquals(0, open.get())
    }

    private companion object {
        const val PADDING = 4097
    }
}

/** Over a file of the JVM, which Android's own cannot close. Like that one it closes its file when it is collected. */
private class Descriptor(
    private val file: RandomAccessFile,
    private val open: AtomicInteger,
) : ParcelFileDescriptor(null as ParcelFileDescriptor?) {
    private var isClosed = false

    init {
        open.incrementAndGet()
    }

    override fun getFileDescriptor(): FileDescriptor = file.fd

    /** Android tells the number; Java does not. */
    override fun getFd(): Int =
        FileDescriptor::class.java.getDeclaredField("fd").run {
            isAccessible = true
            getInt(file.fd)
        }

    override fun close() {
        if (isClosed) return
        isClosed = true
        open.decrementAndGet()
        file.close()
    }

    override fun finalize() = close()
}

private class Unheld(
    private val gone: CountDownLatch,
) {
    @Suppress("unused")
    protected fun finalize() = gone.countDown()
}
