package org.corelocker.android

import android.content.Context
import android.os.SystemClock
import android.provider.Settings
import kotlinx.coroutines.flow.StateFlow
import okhttp3.OkHttpClient
import org.corelocker.core.AppConfig
import org.corelocker.core.ClockReading
import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.Device
import org.corelocker.core.ErrorCode
import org.corelocker.core.KeyBundle
import org.corelocker.core.License
import org.corelocker.core.LicenseFiles
import org.corelocker.core.LockState
import org.corelocker.core.Purchase
import org.corelocker.core.UnlockClient
import org.corelocker.core.UnlockResult
import java.io.File
import java.io.IOException

/**
 * The locked models of an app. Make one when the app starts, off the main thread, and keep it.
 *
 * ```
 * val locker = CoreLocker.open(context)                              // corelocker.json and *.clkey from the assets
 * locker.unlock(Purchase.googlePlay(productId, purchaseToken))
 * val restored = locker.restore("classifier.tflite")                 // locked, or as far as the license goes
 * ```
 *
 * @property bundle the key bundle that the app carries.
 */
public class CoreLocker internal constructor(
    private val client: UnlockClient,
    public val bundle: KeyBundle,
    private val models: LockedModels,
) : AutoCloseable {
    /**
     * What to show; it changes with every call and with [refresh].
     *
     * ```
     * locker.state.collect { label.text = if (it is LockState.Unlocked) it.tier else "locked" }
     * ```
     */
    public val state: StateFlow<LockState> get() = client.state

    /** Gets a license for a purchase, for the last tier if not said otherwise. See [UnlockClient.unlock]. */
    public suspend fun unlock(
        purchase: Purchase,
        tier: String = bundle.tiers.last(),
    ): UnlockResult = client.unlock(purchase, tier)

    /**
     * Renews the license now. See [UnlockClient.renew].
     *
     * ```
     * val covered = locker.renew() is UnlockResult.Unlocked              // on "restore purchases"
     * ```
     */
    public suspend fun renew(): UnlockResult = client.renew()

    /**
     * Renews the license if it is time to, and brings [state] up to date. Call it when the app starts, and once a day in an app
     * that runs for days; from WorkManager, if the app has it: nothing here needs it.
     *
     * ```
     * lifecycleScope.launch { show(locker.refresh()) }
     * ```
     */
    public suspend fun refresh(): LockState = client.refresh()

    /** The license, checked anew, without the network. Throws [CoreLockerException] when there is none that counts. */
    public fun license(): License = client.license()

    /**
     * Removes the license and its device key from this phone.
     *
     * ```
     * locker.forget()
     * check(locker.state.value == LockState.Locked)
     * ```
     */
    public suspend fun forget(): Unit = client.forget()

    /**
     * The bytes of a model among the app's assets, restored as far as the license goes. The asset has to be stored without
     * compression (`androidResources { noCompress += "pte" }`), and its last name is that of the artifact that was locked,
     * or of one of its files.
     *
     * @param upTo the tier to stop at, though the license goes further: to compare, or to show what a tier is worth.
     * @param check when the whole file is read and compared. By default the app package's signature vouches for what a patch
     *   leaves alone.
     * @throws CoreLockerException with a BUNDLE_*, PATCH_*, RESTORE_*, FILE_ACCESS or MEMORY code.
     */
    @OptIn(CoreLockerInternal::class)
    public fun restore(
        asset: String,
        upTo: String? = null,
        check: FullCheck = FullCheck.AUTOMATIC,
    ): RestoredFile = client.patches(asset.substringAfterLast('/'), upTo = upTo).use { models.restoreAsset(asset, it, check) }

    /**
     * The same for a file that the app downloaded. By default it is compared once, since no package's signature vouches for it.
     *
     * @param artifact the name of the artifact that was locked, where the file has another one.
     */
    @OptIn(CoreLockerInternal::class)
    public fun restore(
        file: File,
        artifact: String = file.name,
        upTo: String? = null,
        check: FullCheck = FullCheck.ONCE,
    ): RestoredFile = client.patches(artifact, upTo = upTo).use { models.restoreFile(file, it, check) }

    override fun close(): Unit = bundle.close()

    public companion object {
        private const val CONFIG = "corelocker.json"
        private const val BUNDLE_SUFFIX = ".clkey"

        @Volatile
        private var device: Device? = null

        /**
         * Reads `corelocker.json` and the key bundle from the app's assets, and the license that the app holds.
         *
         * @param bundle the asset of the key bundle; by default the only one that ends with `.clkey`.
         * @param http is used for the unlock service. Its call time-out counts where it is shorter than the library's 20 seconds.
         * @param integrityToken gets a token of the Play Integrity API for a request's digest, where the service asks for one. It
         *   may block; it is called off the main thread. When it throws, the unlock is refused with DEVICE_BUSY.
         * @throws CoreLockerException with APP_CONFIG, a BUNDLE_* code or FILE_ACCESS.
         */
        public fun open(
            context: Context,
            bundle: String? = null,
            http: OkHttpClient = OkHttpClient(),
            integrityToken: ((ByteArray) -> String)? = null,
        ): CoreLocker {
            val app = context.applicationContext
            val folder = File(app.noBackupFilesDir, "corelocker")
            val config = AppConfig.parse(readAsset(app, CONFIG))
            if (config.app != app.packageName) throw CoreLockerException(ErrorCode.APP_CONFIG, "$CONFIG is for another app")
            val keyBundle = openBundle(app, bundle ?: onlyBundle(app), config.publisher)
            val client = UnlockClient(config, keyBundle, deviceOf(app, folder, integrityToken), http)
            return CoreLocker(client, keyBundle, LockedModels(app.assets::openFd, Stamps(folder)))
        }

        /** All of the process share one: a client drops the keys that no license names. */
        @Synchronized
        private fun deviceOf(
            app: Context,
            folder: File,
            integrityToken: ((ByteArray) -> String)?,
        ): Device =
            device ?: run {
                val files = LicenseFiles(folder)
                val features = app.packageManager
                val keys = developmentKeys(app.assets, folder) ?: DeviceKeysOfPhone.choose(features::hasSystemFeature, integrityToken)
                val clock = { readClock(app) }
                Device(keys, files, files, clock).also { device = it }
            }

        private fun readClock(app: Context): ClockReading {
            val boot = Settings.Global.getInt(app.contentResolver, Settings.Global.BOOT_COUNT, 0)
            return ClockReading(System.currentTimeMillis() / 1000, SystemClock.elapsedRealtime() / 1000, "boot $boot")
        }

        private fun onlyBundle(app: Context): String =
            app.assets
                .list("")
                .orEmpty()
                .singleOrNull { it.endsWith(BUNDLE_SUFFIX) }
                ?: throw CoreLockerException(ErrorCode.FILE_ACCESS, "there is not one key bundle among the assets; name it")

        private fun openBundle(
            app: Context,
            asset: String,
            publisher: String,
        ): KeyBundle =
            try {
                // Assets without compression are read where they lie in the package; a bundle is small enough for memory otherwise.
                keyBundle(app.assets.openFd(asset), publisher)
            } catch (_: IOException) {
                KeyBundle.open(readAsset(app, asset), publisher)
            }

        private fun readAsset(
            app: Context,
            name: String,
        ): ByteArray =
            try {
                app.assets.open(name).use { it.readBytes() }
            } catch (_: IOException) {
                throw CoreLockerException(ErrorCode.FILE_ACCESS, "there is no asset $name")
            }
    }
}
