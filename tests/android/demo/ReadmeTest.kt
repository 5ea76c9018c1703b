package org.corelocker.demo

import org.jetbrains.skia.Image
import org.jetbrains.skia.RRect
import org.jetbrains.skia.Surface
import org.junit.Assert.assertNull
import org.junit.Test
import java.io.File

/** The pictures of the README show the app as it is. UPDATE_GOLDENS=1 writes them. */
class ReadmeTest {
    private val pictures by lazy { pictures().associateBy(Picture::name) }

    @Test
    fun `a purchase in four screens`() =
        requireShown("android_demo", "classify-locked-light", "plans-locked-light", "classify-unlocked-light", "compare-unlocked-light")

    @Test
    fun `dark, German, large letters, and a refusal`() =
        requireShown("android_demo_looks", "compare-unlocked-dark", "plans-locked-german", "classify-unlocked-large", "access-refused-dark")

    private fun requireShown(
        name: String,
        vararg screens: String,
    ) {
        val image = sideBySide(screens.map { pictures.getValue(it).draw(density = 1f, height = HEIGHT) })
        val file = File(System.getProperty("demo.readme"), "$name.png")
        if (updatesGoldens) file.writeBytes(png(image))
        assertNull(name, difference(image, file))
    }

    private fun sideBySide(screens: List<Image>): Image {
        val width = screens.size * (Picture.WIDTH + GAP) + GAP
        val canvas = Surface.makeRasterN32Premul(width, HEIGHT + 2 * GAP)
        canvas.canvas.clear(BACKGROUND)
        screens.forEachIndexed { place, screen ->
            val left = (GAP + place * (Picture.WIDTH + GAP)).toFloat()
            val top = GAP.toFloat()
            canvas.canvas.save()
            canvas.canvas.clipRRect(RRect.makeLTRB(left, top, left + screen.width, top + screen.height, CORNER), true)
            canvas.canvas.drawImage(screen, left, top)
            canvas.canvas.restore()
        }
        return canvas.makeImageSnapshot()
    }

    private companion object {
        const val HEIGHT = 780
        const val GAP = 24
        const val CORNER = 28f
        const val BACKGROUND = 0xFFD8D6E4.toInt()
    }
}
