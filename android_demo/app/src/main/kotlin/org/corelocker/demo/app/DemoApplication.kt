package org.corelocker.demo.app

import android.app.Activity
import android.app.Application
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import org.corelocker.android.CoreLocker
import org.corelocker.core.CoreLockerException
import org.corelocker.core.ErrorCode
import org.corelocker.demo.model.LockedApp
import org.corelocker.demo.model.Sample
import org.corelocker.demo.model.SampleSet
import org.corelocker.demo.model.Shop
import java.io.IOException

/** A shop that may show its own screens over the app's. */
internal interface ForegroundShop : Shop {
    /** The activity that is in the foreground, or null. */
    var activity: Activity?
}

/** What the app needs before it can show anything. */
internal sealed interface Start {
    data object Opening : Start

    class Ready(
        val app: LockedApp,
        val shop: ForegroundShop,
        val samples: List<Sample>,
    ) : Start

    /** The assets are damaged, or of another app. [code] says what is wrong. */
    data class Failed(
        val code: String,
    ) : Start
}

/** Opens the locked model once for the process, off the main thread. */
class DemoApplication : Application() {
    private val starts = MutableStateFlow<Start>(Start.Opening)
    internal val start: StateFlow<Start> = starts.asStateFlow()

    override fun onCreate() {
        super.onCreate()
        CoroutineScope(SupervisorJob() + Dispatchers.IO).launch { starts.value = open() }
    }

    private fun open(): Start =
        try {
            val locker = CoreLocker.open(this)
            val samples = SampleSet.parse(asset("images.idx"), asset("labels.idx"))
            Start.Ready(LockerApp(locker), shop(this, locker.bundle.tiers.drop(1)), samples)
        } catch (refused: CoreLockerException) {
            Start.Failed(refused.code.word)
        } catch (_: IOException) {
            Start.Failed(ErrorCode.FILE_ACCESS.word)
        }

    private fun asset(name: String): ByteArray = assets.open(name).use { it.readBytes() }
}
