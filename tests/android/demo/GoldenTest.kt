package org.corelocker.demo

import org.jetbrains.skia.Bitmap
import org.jetbrains.skia.ColorAlphaType
import org.jetbrains.skia.ColorType
import org.jetbrains.skia.EncodedImageFormat
import org.jetbrains.skia.Image
import org.jetbrains.skia.ImageInfo
import org.junit.Assert.assertEquals
import org.junit.Test
import java.io.File
import kotlin.math.abs

/**
 * Each screen in each state looks as it did when somebody last looked at it. With UPDATE_GOLDENS=1 the pictures are written
 * anew; look at them, then.
 */
class GoldenTest {
    private val goldens = File(System.getProperty("demo.goldens"))
    private val drawn = File(System.getProperty("demo.pictures")).apply { mkdirs() }
    private val update = System.getenv("UPDATE_GOLDENS") == "1"

    @Test
    fun `every screen looks as before`() {
        val pictures = pictures()
        val differing =
            pictures.mapNotNull { picture ->
                val image = picture.draw(density = 1f)
                File(drawn, "${picture.name}.png").writeBytes(png(image))
                val small = shrink(image)
                val golden = File(goldens, "${picture.name}.png")
                if (update) golden.writeBytes(png(small))
                difference(small, golden)?.let { "${picture.name}: $it" }
            }
        assertEquals("see ${drawn.path}", emptyList<String>(), differing)
        val left = checkNotNull(goldens.list()).toSet() - pictures.map { "${it.name}.png" }.toSet()
        assertEquals("goldens of no picture", emptySet<String>(), left)
    }

    private fun png(image: Image) = checkNotNull(image.encodeToData(EncodedImageFormat.PNG)).bytes

    /** Half the size and 16 levels a channel, so that all goldens together stay small. */
    private fun shrink(image: Image): Image {
        val (width, height) = image.width / 2 to image.height / 2
        val from = pixels(image)
        val small =
            ByteArray(4 * width * height) { at ->
                val (x, y) = at / 4 % width to at / 4 / width
                val corner = 4 * (2 * y * image.width + 2 * x) + at % 4
                val sum = from[corner] + from[corner + 4] + from[corner + 4 * image.width] + from[corner + 4 * image.width + 4]
                ((sum / 4 + 8) / 17 * 17).toByte()
            }
        return Image.makeRaster(ImageInfo(width, height, ColorType.BGRA_8888, ColorAlphaType.OPAQUE), small, 4 * width)
    }

    /** What differs, or null: a few pixels may, since a newer Java writes dates with another space. */
    private fun difference(
        image: Image,
        golden: File,
    ): String? {
        if (!golden.exists()) return "there is no golden picture"
        val expected = Image.makeFromEncoded(golden.readBytes())
        if (expected.width != image.width || expected.height != image.height) return "it has another size"
        val (a, b) = pixels(image) to pixels(expected)
        val other = a.indices.step(4).count { at -> (0..2).any { abs(a[at + it] - b[at + it]) > CHANNEL } }
        return "$other pixels are others".takeIf { other > PIXELS }
    }

    /** Blue, green, red and alpha of each pixel. */
    private fun pixels(image: Image): IntArray {
        val info = ImageInfo(image.width, image.height, ColorType.BGRA_8888, ColorAlphaType.OPAQUE)
        val bytes = checkNotNull(Bitmap.makeFromImage(image).readPixels(info))
        return IntArray(bytes.size) { bytes[it].toInt() and 0xff }
    }

    private companion object {
        const val CHANNEL = 40
        const val PIXELS = 20
    }
}
