package org.corelocker.demo

import androidx.compose.ui.graphics.Canvas
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.Paint
import org.corelocker.demo.model.GrayImage
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class GrayImageTest {
    private fun picture(
        width: Int,
        height: Int,
        background: Color,
        ink: Color,
    ): ImageBitmap {
        val bitmap = ImageBitmap(width, height)
        val canvas = Canvas(bitmap)
        canvas.drawRect(0f, 0f, width.toFloat(), height.toFloat(), Paint().apply { color = background })
        canvas.drawRect(width / 2f - 28, height / 2f - 14, width / 2f + 28, height / 2f + 14, Paint().apply { color = ink })
        return bitmap
    }

    private fun at(
        input: FloatArray,
        x: Int,
        y: Int,
    ) = input[y * GrayImage.SIDE + x]

    @Test
    fun thingsBecomeLightOnBlackWhateverTheirColors() {
        for ((background, ink) in listOf(Color.White to Color.Black, Color.Black to Color.White, Color.Blue to Color.Yellow)) {
            val input = GrayImage.of(picture(112, 112, background, ink)).toInput()
            assertEquals(1f, at(input, 14, 14), 0.01f)
            assertEquals(0f, at(input, 2, 2), 0.01f)
            assertEquals(0f, at(input, 14, 4), 0.01f)
        }
    }

    @Test
    fun takesTheMiddleSquareOfAWideOrTallPhoto() {
        val square = GrayImage.of(picture(112, 112, Color.White, Color.Black)).toInput()
        assertArrayEquals(square, GrayImage.of(picture(300, 112, Color.White, Color.Black)).toInput(), 0f)
        assertArrayEquals(square, GrayImage.of(picture(112, 312, Color.White, Color.Black)).toInput(), 0f)
    }

    @Test
    fun anEmptyPhotoStaysBlackAndATinyOneIsRefused() {
        assertTrue(GrayImage.of(picture(64, 64, Color.Gray, Color.Gray)).toInput().all { it < 0.05f })
        assertThrows(IllegalArgumentException::class.java) { GrayImage.of(ImageBitmap(27, 200)) }
    }

    @Test
    fun aBitmapShowsEachPixel() {
        val pixels = ByteArray(784) { (it % 251).toByte() }
        val argb = IntArray(784)
        GrayImage(pixels).toBitmap().readPixels(argb)
        assertArrayEquals(pixels, ByteArray(784) { argb[it].toByte() })
    }
}
