package org.corelocker.demo.app

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import androidx.annotation.RequiresApi

/** Android 9 and later decode a photo turned upright, and no larger than asked for. */
@RequiresApi(28)
internal object Api28Photos {
    private const val LARGEST_SIDE = 1024

    /** Throws [java.io.IOException] for a file that is no picture. */
    fun decode(
        resolver: ContentResolver,
        uri: Uri,
    ): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, uri)) { decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            val side = maxOf(info.size.width, info.size.height)
            decoder.setTargetSampleSize(maxOf(1, side / LARGEST_SIDE))
        }
}
