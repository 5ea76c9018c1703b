package org.corelocker.demo.app

import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.provider.MediaStore
import androidx.activity.ComponentActivity
import androidx.activity.compose.BackHandler
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.viewModels
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.platform.LocalConfiguration
import androidx.lifecycle.ViewModelProvider
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.corelocker.demo.screens.AccessViewModel
import org.corelocker.demo.screens.ClassifyViewModel
import org.corelocker.demo.screens.CompareViewModel
import org.corelocker.demo.screens.DemoApp
import org.corelocker.demo.screens.DemoModels
import org.corelocker.demo.screens.StartScreen
import org.corelocker.demo.ui.DemoTheme
import org.corelocker.demo.words.Strings
import java.io.IOException

/** Binds the screens to the phone: language, photo picker, shop. */
class MainActivity : ComponentActivity() {
    private val application get() = getApplication() as DemoApplication
    private val ready get() = application.start.value as Start.Ready
    private val classify: ClassifyViewModel by viewModels { models }
    private val compare: CompareViewModel by viewModels { models }
    private val access: AccessViewModel by viewModels { models }

    /** Used once the application is ready. */
    private val models: ViewModelProvider.Factory =
        viewModelFactory {
            initializer { ClassifyViewModel(ready.app, ready.samples) }
            initializer { CompareViewModel(ready.app, ready.samples) }
            initializer { AccessViewModel(ready.app, ready.shop) }
        }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        setContent {
            DemoTheme(Strings.of(LocalConfiguration.current.locales[0])) {
                val start by application.start.collectAsStateWithLifecycle()
                when (val now = start) {
                    Start.Opening -> StartScreen(failure = null)
                    is Start.Failed -> StartScreen(now.code)
                    is Start.Ready -> Ready(now)
                }
            }
        }
    }

    @Composable
    private fun Ready(start: Start.Ready) {
        val scope = rememberCoroutineScope()
        val picker =
            rememberLauncherForActivityResult(PickVisualMedia()) { uri ->
                if (uri != null) scope.launch { classify.choosePhoto(withContext(Dispatchers.IO) { decode(uri) }) }
            }
        OnResume(
            resume = {
                start.shop.activity = this
                access.resume()
            },
            pause = { start.shop.activity = null },
        )
        DemoApp(
            DemoModels(classify, compare, access),
            onPickPhoto = { picker.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) },
            backHandler = { enabled, onBack -> BackHandler(enabled, onBack) },
        )
    }

    /** The photo as a bitmap whose pixels can be read, no larger than the screen needs; null when it is none. */
    private fun decode(uri: Uri): ImageBitmap? =
        try {
            val bitmap = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.P) Api28Photos.decode(contentResolver, uri) else decodeOld(uri)
            bitmap.asImageBitmap()
        } catch (_: IOException) {
            null
        }

    @Suppress("DEPRECATION") // Before Android 9 there is no other.
    private fun decodeOld(uri: Uri): Bitmap = MediaStore.Images.Media.getBitmap(contentResolver, uri)
}
