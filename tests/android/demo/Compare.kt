package org.corelocker.demo

import org.jetbrains.skia.Bitmap
import org.jetbrains.skia.ColorAlphaType
import org.jetbrains.skia.ColorType
import org.jetbrains.skia.EncodedImageFormat
import org.jetbrains.skia.Image
import org.jetbrains.skia.ImageInfo
import java.io.File
import kotlin.math.abs

private const val CHANNEL = 40

/** Newer Java versions put a narrower space into dates. */
private const val PIXELS = 20

/** For pictures with a progress ring: it turns, and the test cannot choose the frame that is drawn. */
internal const val TURNING_PIXELS = 200

/** Whether pictures are to be written in the place of those that are there. */
internal val updatesGoldens = System.getenv("UPDATE_GOLDENS") == "1"

internal fun png(image: Image): ByteArray = checkNotNull(image.encodeToData(EncodedImageFormat.PNG)).bytes

/** Blue, green, red and alpha of each pixel. */
internal fun pixels(image: Image): IntArray {
    val info = ImageInfo(image.width, image.height, ColorType.BGRA_8888, ColorAlphaType.OPAQUE)
    val bytes = checkNotNull(Bitmap.makeFromImage(image).readPixels(info))
    return IntArray(bytes.size) { bytes[it].toInt() and 0xff }
}

/** What differs, or null: [allowed] pixels may. */
internal fun difference(
    image: Image,
    golden: File,
    allowed: Int = PIXELS,
): String? {
    if (!golden.exists()) return "there is no golden picture"
    val expected = Image.makeFromEncoded(golden.readBytes())
    if (expected.width != image.width || expected.height != image.height) return "it has another size"
    val (a, b) = pixels(image) to pixels(expected)
    val other = a.indices.step(4).count { at -> (0..2).any { abs(a[at + it] - b[at + it]) > CHANNEL } }
    return "$other pixels are others".takeIf { other > allowed }
}
