package org.corelocker.demo.model

import androidx.compose.ui.graphics.Canvas
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.Paint
import kotlin.math.abs
import kotlin.math.exp

/** What the model sees: 28 x 28 gray levels, light on black. */
class GrayImage(
    private val pixels: ByteArray,
) {
    init {
        require(pixels.size == SIDE * SIDE) { "an image has $SIDE x $SIDE pixels" }
    }

    /** From 0 (black) to 1. */
    fun toInput() = FloatArray(pixels.size) { level(it) / WHITE }

    /** To show it: one pixel for each pixel. */
    fun toBitmap(): ImageBitmap {
        val bitmap = ImageBitmap(SIDE, SIDE)
        val canvas = Canvas(bitmap)
        val paint = Paint().apply { isAntiAlias = false }
        for (at in pixels.indices) {
            val (x, y) = (at % SIDE).toFloat() to (at / SIDE).toFloat()
            val level = level(at)
            paint.color = Color(level, level, level)
            canvas.drawRect(x, y, x + 1, y + 1, paint)
        }
        return bitmap
    }

    private fun level(at: Int) = pixels[at].toInt() and 0xff

    companion object {
        const val SIDE = 28
        private const val WHITE = 255f

        /**
         * The middle square of a photo, made like the images that the model was trained on: small, gray, light on a black
         * background. The photo's border is taken for its background.
         */
        fun of(photo: ImageBitmap): GrayImage {
            val luminance = shrink(photo)
            val border = luminance.filterIndexed { at, _ -> isBorder(at) }
            val background = border.sorted()[border.size / 2]
            val distance = luminance.map { abs(it - background) }
            val most = distance.max().coerceAtLeast(LEAST_CONTRAST)
            return GrayImage(ByteArray(SIDE * SIDE) { ((distance[it] / most) * WHITE).toInt().toByte() })
        }

        /** Mean luminance, from 0 to 1, of each of 28 x 28 fields. */
        private fun shrink(photo: ImageBitmap): List<Float> {
            val side = minOf(photo.width, photo.height)
            require(side >= SIDE) { "a photo has at least $SIDE x $SIDE pixels" }
            val argb = IntArray(side * side)
            photo.readPixels(argb, (photo.width - side) / 2, (photo.height - side) / 2, side, side)
            return List(SIDE * SIDE) { at ->
                val (left, top) = at % SIDE * side / SIDE to at / SIDE * side / SIDE
                val (right, bottom) = (at % SIDE + 1) * side / SIDE to (at / SIDE + 1) * side / SIDE
                var sum = 0f
                for (y in top until bottom) for (x in left until right) sum += luminance(argb[y * side + x])
                sum / ((right - left) * (bottom - top))
            }
        }

        /** ITU-R BT.601. */
        private fun luminance(argb: Int): Float {
            fun channel(shift: Int) = (argb shr shift and 0xff) / WHITE
            return 0.299f * channel(16) + 0.587f * channel(8) + 0.114f * channel(0)
        }

        private fun isBorder(at: Int) = at % SIDE in setOf(0, SIDE - 1) || at / SIDE in setOf(0, SIDE - 1)

        /** Noise of an empty photo is not stretched to a picture. */
        private const val LEAST_CONTRAST = 0.1f
    }
}

/** A class and how likely it is, from 0 to 1. */
data class Prediction(
    val label: Int,
    val probability: Float,
)

/** All classes, the likeliest first. */
fun predictions(scores: FloatArray): List<Prediction> {
    val most = scores.max()
    val weights = scores.map { exp(it - most) }
    val sum = weights.sum()
    return weights.mapIndexed { label, weight -> Prediction(label, weight / sum) }.sortedByDescending(Prediction::probability)
}
