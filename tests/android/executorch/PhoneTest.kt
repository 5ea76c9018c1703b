package org.corelocker.executorch

import android.util.Log
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import okhttp3.OkHttpClient
import org.corelocker.android.DevelopmentKeys
import org.corelocker.android.FullCheck
import org.corelocker.android.LockedBytes
import org.corelocker.android.RestoredFile
import org.corelocker.core.AppConfig
import org.corelocker.core.ClockReading
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.Device
import org.corelocker.core.DeviceKeys
import org.corelocker.core.KeyBundle
import org.corelocker.core.LicenseFiles
import org.corelocker.core.Patches
import org.corelocker.core.Purchase
import org.corelocker.core.RetryPolicy
import org.corelocker.core.ServiceClient
import org.corelocker.core.UnlockClient
import org.corelocker.core.UnlockResult
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.io.TempDir
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.time.Duration

/** A phone with the app on it, in the world that all these tests share. */
@OptIn(CoreLockerInternal::class)
internal abstract class PhoneTest {
    @TempDir
    lateinit var folder: File

    /** Seconds by which this phone's clock is ahead. */
    protected var ahead = 0L

    protected fun client(
        folder: File = this.folder,
        config: String = world.config,
        bundle: File = world.bundle,
        retry: RetryPolicy = RetryPolicy(),
        http: OkHttpClient = OkHttpClient(),
        keys: DeviceKeys = DevelopmentKeys(world.developmentKey, folder),
        pause: suspend (Duration) -> Unit = { delay(it) },
    ): UnlockClient {
        val app = AppConfig.parse(config.toByteArray())
        val files = LicenseFiles(folder)
        val clock = { ClockReading(System.currentTimeMillis() / 1000 + ahead, System.nanoTime() / 1_000_000_000, "boot") }
        val device = Device(keys, files, files, clock)
        val service = ServiceClient(app.service, http, retry, pause)
        return UnlockClient(app, KeyBundle.open(bundle, app.publisher), device, service, Dispatchers.IO)
    }

    protected fun unlocked(folder: File = this.folder): UnlockClient =
        client(folder).also {
            assertTrue(unlock(it) is UnlockResult.Unlocked)
        }

    protected fun unlock(
        client: UnlockClient,
        tier: String = "full",
        grant: String = world.grant(),
    ): UnlockResult = runBlocking { client.unlock(Purchase.grant(grant), tier) }.also { log(client, it) }

    /** What an app may well log. The gate looks for secrets in it. */
    protected fun log(
        client: UnlockClient,
        result: UnlockResult,
    ) {
        Log.i("demo", "$result ${client.state.value} ${(result as? UnlockResult.Unlocked)?.license}")
        (result as? UnlockResult.Refused)?.error?.printStackTrace()
        for (file in folder.walk().filter { it.name.endsWith(".jws") }) world.remember(file.readText())
    }

    protected fun now() = System.currentTimeMillis() / 1000

    protected fun code(result: UnlockResult) = (result as UnlockResult.Refused).error.code

    protected fun restore(
        client: UnlockClient,
        upTo: String? = null,
    ): RestoredFile =
        client.patches("model.pte", upTo = upTo).use { RestoredFile.open(LockedBytes.InFile(world.locked), it, FullCheck.ONCE) }

    protected fun run(
        client: UnlockClient,
        upTo: String? = null,
    ): FloatArray = LockedModule.of(restore(client, upTo)).use(::forward)

    protected fun forward(module: LockedModule): FloatArray =
        module
            .forward(EValue.from(Tensor.fromBlob(input, longArrayOf(1, 3, 32, 32))))
            .single()
            .toTensor()
            .dataAsFloatArray

    protected fun isLocked(output: FloatArray) = output.size == 10 && !output.contentEquals(original)

    protected companion object {
        val world: World by lazy { World(File(System.getProperty("corelocker.world.folder"))) }

        val input: FloatArray by lazy {
            val bytes = ByteBuffer.wrap(world.input.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            FloatArray(bytes.remaining()).also(bytes::get)
        }

        /** The original's output in the same process, opened without a patch. */
        val original: FloatArray by lazy {
            val none = Patches(0, world.original.length(), ByteArray(32), emptyList())
            val file = RestoredFile.open(LockedBytes.InFile(world.original), none, FullCheck.OFF)
            val tensor = Tensor.fromBlob(input, longArrayOf(1, 3, 32, 32))
            LockedModule.of(file).use { it.output(EValue.from(tensor)) }
        }
    }
}
