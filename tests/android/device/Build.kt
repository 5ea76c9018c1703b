package android.os

/** Stands for what the phone says of itself, which the test chooses. */
internal class Build {
    internal object VERSION {
        @Suppress("ktlint:standard:property-naming") // Android's own name
        @JvmField
        var SDK_INT = 36
    }
}
