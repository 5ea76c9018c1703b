plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.compose) apply false
    // The Android plugin compiles with the Kotlin that it finds: the one that the compiler plugin of Compose is made for.
    alias(libs.plugins.kotlin.jvm) apply false
}
