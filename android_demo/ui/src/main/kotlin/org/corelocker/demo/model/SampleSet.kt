package org.corelocker.demo.model

import java.nio.ByteBuffer

/** A labelled test image. */
class Sample(
    val image: GrayImage,
    val label: Int,
)

/** The labelled test images that the app carries, in the IDX form of MNIST. */
object SampleSet {
    private const val LABELS = 0x801
    private const val IMAGES = 0x803

    /**
     * Throws [IllegalArgumentException] for anything but as many images of 28 x 28 pixels as labels.
     *
     * @param images `images.idx`.
     * @param labels `labels.idx`.
     */
    fun parse(
        images: ByteArray,
        labels: ByteArray,
    ): List<Sample> {
        val pixels = content(images, IMAGES, listOf(null, GrayImage.SIDE, GrayImage.SIDE))
        val classes = content(labels, LABELS, listOf(null))
        require(pixels.remaining() == classes.remaining() * GrayImage.SIDE * GrayImage.SIDE) { "there is not one label for each image" }
        return List(classes.remaining()) {
            val label = classes.get().toInt()
            require(label in 0..9) { "a label is none of the ten classes" }
            Sample(GrayImage(ByteArray(GrayImage.SIDE * GrayImage.SIDE).also(pixels::get)), label)
        }
    }

    /** What follows the head, of which [dimensions] are known or any. */
    private fun content(
        data: ByteArray,
        magic: Int,
        dimensions: List<Int?>,
    ): ByteBuffer {
        val buffer = ByteBuffer.wrap(data)
        require(data.size >= Int.SIZE_BYTES * (1 + dimensions.size) && buffer.getInt() == magic) { "this is no IDX file of that kind" }
        var size = 1L
        for (expected in dimensions) {
            val dimension = buffer.getInt()
            require(dimension >= 0 && (expected == null || dimension == expected)) { "a dimension is $dimension" }
            size *= dimension
        }
        require(size == buffer.remaining().toLong()) { "the file is not as long as its head says" }
        return buffer
    }
}
