package android.util

/** Stands for the phone's log, which goes to the standard output here. */
internal object Log {
    @JvmStatic
    fun i(
        tag: String,
        message: String,
    ): Int {
        println("I/$tag: $message")
        return message.length
    }
}
