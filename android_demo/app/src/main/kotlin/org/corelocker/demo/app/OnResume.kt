package org.corelocker.demo.app

import androidx.compose.runtime.Composable
import androidx.lifecycle.compose.LifecycleResumeEffect

/** Calls [resume] each time the activity comes to the foreground, and [pause] when it leaves it. */
@Composable
internal fun OnResume(
    resume: () -> Unit,
    pause: () -> Unit,
) {
    LifecycleResumeEffect(Unit) {
        resume()
        onPauseOrDispose { pause() }
    }
}
