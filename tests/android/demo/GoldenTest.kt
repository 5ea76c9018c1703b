package org.corelocker.demo

import org.jetbrains.skia.ColorAlphaType
import org.jetbrains.skia.ColorType
import org.jetbrains.skia.Image
import org.jetbrains.skia.ImageInfo
import org.junit.Assert.assertEquals
import org.junit.Test
import java.io.File

/**
 * Each screen in each state looks as it did when somebody last looked at it. With UPDATE_GOLDENS=1 the pictures are written
 * anew; look at them, then.
 */
class GoldenTest {
    private val goldens = File(System.getProperty("demo.goldens"))
    private val drawn = File(System.getProperty("demo.pictures")).apply { mkdirs() }

    @Test
    fun `every screen looks as before`() {
        val pictures = pictures()
        val differing =
            pictures.mapNotNull { picture ->
                val image = picture.draw(density = 1f)
                File(drawn, "${picture.name}.png").writeBytes(png(image))
                val small = shrink(image)
                val golden = File(goldens, "${picture.name}.png")
                if (updatesGoldens) golden.writeBytes(png(small))
                val difference = if (picture.turns) difference(small, golden, TURNING_PIXELS) else difference(small, golden)
                difference?.let { "${picture.name}: $it" }
            }
        assertEquals("see ${drawn.path}", emptyList<String>(), differing)
        val left = checkNotNull(goldens.list()).toSet() - pictures.map { "${it.name}.png" }.toSet()
        assertEquals("goldens of no picture", emptySet<String>(), left)
    }

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
}
