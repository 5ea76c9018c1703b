package org.corelocker.demo.screens

import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.CircularProgressIndicator
import androidx.compose.material3.Surface
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import org.corelocker.demo.ui.NoticeCard
import org.corelocker.demo.words.LocalStrings
import org.corelocker.demo.words.Notice
import org.corelocker.demo.words.Tone
import org.corelocker.demo.words.Trouble

/** While the model is opened; or [failure], the code of what is wrong with the app. */
@Composable
fun StartScreen(failure: String?) {
    Surface(Modifier.fillMaxSize()) {
        Box(Modifier.padding(24.dp), contentAlignment = Alignment.Center) {
            if (failure == null) {
                CircularProgressIndicator()
            } else {
                NoticeCard(Notice(Tone.REFUSED, LocalStrings.current.trouble(Trouble.APP), code = failure), onRemedy = {})
            }
        }
    }
}
