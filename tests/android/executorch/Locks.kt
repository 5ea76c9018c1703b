package org.corelocker.executorch

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.corelocker.android.FullCheck
import org.corelocker.android.LockedBytes
import org.corelocker.android.RestoredFile
import org.corelocker.core.ContentKey
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.KeyBundle
import org.corelocker.core.Patches
import org.corelocker.core.hex
import org.corelocker.core.list
import org.corelocker.core.number
import org.corelocker.core.objects
import org.corelocker.core.text
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What tests/android/locks.py has made: models of every encoding, locked by the signs of their weights. */
@OptIn(CoreLockerInternal::class)
internal object Locks {
    private val about = Json.parseToJsonElement(File(System.getProperty("corelocker.locks")).readText()).jsonObject
    private val bundle = KeyBundle.open(File(about.text("bundle")), null)
    private val contentKey = about.hex("content_key")
    private val last = about.number("tiers").toInt() - 1

    class Model(
        about: JsonObject,
    ) {
        val name = about.text("name")
        val files = about.list("files").map { it.jsonPrimitive.content }
        private val shape = about.list("sizes").map { it.jsonPrimitive.content.toLong() }.toLongArray()

        fun input(): EValue {
            val bytes = ByteBuffer.wrap(File(Locks.about.text("original"), "$name.bin").readBytes()).order(ByteOrder.LITTLE_ENDIAN)
            val values = FloatArray(bytes.remaining() / Float.SIZE_BYTES).also(bytes.asFloatBuffer()::get)
            return EValue.from(Tensor.fromBlob(values, shape))
        }
    }

    val models = about.objects("models").map(::Model)

    fun locked(file: String) = File(about.text("locked"), file)

    fun original(file: String) = File(about.text("original"), file)

    /** A file in the state of the last tier, or locked. */
    fun restore(
        file: String,
        restored: Boolean = true,
    ): RestoredFile {
        val place = bundle.place(file, null)
        val patches =
            if (restored) {
                ContentKey(contentKey.copyOf()).use { bundle.patches(place, it, last, last) }
            } else {
                bundle
                    .patches(place, null, 0, 0)
            }
        return patches.use { RestoredFile.open(LockedBytes.InFile(locked(file)), it, FullCheck.OFF) }
    }

    /** The original file, opened without a patch. */
    fun openOriginal(file: String): RestoredFile {
        val none = Patches(0, original(file).length(), ByteArray(32), emptyList())
        return RestoredFile.open(LockedBytes.InFile(original(file)), none, FullCheck.OFF)
    }

    fun module(files: List<RestoredFile>): LockedModule = LockedModule.of(files[0], files.getOrNull(1))
}

internal fun LockedModule.output(input: EValue): FloatArray = forward(input).single().toTensor().dataAsFloatArray
