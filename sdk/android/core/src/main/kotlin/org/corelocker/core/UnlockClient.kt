package org.corelocker.core

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import okhttp3.OkHttpClient
import java.net.URLEncoder
import java.time.Instant

/**
 * Where an [UnlockClient] gets its keys, keeps its licenses and reads the time. All clients of a process share one, since
 * each drops the keys that no license names.
 *
 * ```
 * val files = LicenseFiles(folder)
 * val device = Device(keys, files, files) { ClockReading(now(), uptime(), bootId) }
 * ```
 *
 * @property keys makes and finds the device's keys.
 * @property licenses keeps the licenses.
 * @property marks keeps the latest time that was seen.
 * @property clock reads the time.
 */
public class Device(
    public val keys: DeviceKeys,
    public val licenses: LicenseStore,
    public val marks: ClockMarkStore,
    public val clock: DeviceClock,
) {
    internal val oneAtATime = Mutex()
}

/**
 * Gets, keeps, renews and checks the license of one key bundle. All functions that ask the service suspend, can be cancelled,
 * and run one after the other; nothing needs the main thread.
 *
 * ```
 * val client = UnlockClient(config, bundle, device)
 * when (val result = client.unlock(Purchase.grant(jws), "full")) {
 *     is UnlockResult.Unlocked -> println(result.license.expiresAt)
 *     is UnlockResult.Refused -> println(result.error.code)
 * }
 * ```
 */
public class UnlockClient internal constructor(
    private val config: AppConfig,
    private val bundle: KeyBundle,
    private val device: Device,
    private val service: ServiceClient,
    private val dispatcher: CoroutineDispatcher,
) {
    public constructor(
        config: AppConfig,
        bundle: KeyBundle,
        device: Device,
        http: OkHttpClient = OkHttpClient(),
        retry: RetryPolicy = RetryPolicy(),
    ) : this(config, bundle, device, ServiceClient(config.service, http, retry), Dispatchers.IO)

    private val id = bundle.id.toString()
    private val anyTier = bundle.tiers.drop(1)
    private val check = LicenseCheck(device.clock, device.marks)
    private val states = MutableStateFlow<LockState>(LockState.Locked)

    /** What to show about the key bundle. [refresh] brings it up to date with the clock. */
    public val state: StateFlow<LockState> = states.asStateFlow()

    init {
        if (bundle.publisher != config.publisher) {
            throw CoreLockerException(ErrorCode.BUNDLE_PUBLISHER, "the key bundle is of another publisher than the app's")
        }
        settle(null)
    }

    /**
     * Gets a license for a tier, and keeps it in the place of an older one. When it is refused, the older one stays.
     *
     * On Android each request makes a device key. The former key hands its place of the purchase to the new one, also where the
     * answer to the last unlock got lost, and goes when the new license is stored. A key that is gone leaves its place to the
     * service's cool-down. [renew] a license that covers the purchase already: that asks less of the secure hardware.
     *
     * @param tier its name; by default the last, which restores everything.
     */
    public suspend fun unlock(
        purchase: Purchase,
        tier: String = bundle.tiers.last(),
    ): UnlockResult =
        asking {
            bundle.tier(tier)
            val attempts = UnlockAttempts(device, id, heldKey())
            var unlocked: License? = null
            while (unlocked == null) {
                try {
                    unlocked = unlocked(purchase, tier, attempts)
                } catch (refused: CoreLockerException) {
                    // Nothing says which of the former keys the place belongs to, where several answers got lost.
                    if (refused.code != ErrorCode.DEVICE_LIMIT || !attempts.hasAnother()) throw refused
                }
            }
            unlocked
        }

    /**
     * Gets the next license for the one that is held, which may have ended. When the service says that the right is gone
     * (revoked, refunded, replaced, or the place given to another device), the license goes too.
     */
    public suspend fun renew(): UnlockResult = asking(::renewed)

    /**
     * Renews the license if it is time to (after two thirds of it, and once it has ended), and brings [state] up to date. Call
     * it when the app starts and, for apps that run for days, once a day.
     */
    public suspend fun refresh(): LockState {
        val due = withContext(dispatcher) { device.oneAtATime.withLock { isRenewalDue() } }
        if (due) renew()
        return states.value
    }

    /**
     * The license, checked anew; needs no network. Throws [CoreLockerException] with NOT_UNLOCKED without one, or with the
     * LICENSE_* code that says why it cannot be used now.
     */
    public fun license(): License = current().license

    /** Removes the license of the key bundle from the device, and its device key. */
    public suspend fun forget() {
        withContext(dispatcher) {
            device.oneAtATime.withLock {
                device.licenses.remove(id)
                device.licenses.saveAttempts(id, emptyList())
                dropUnusedKeys()
                settle(null)
            }
        }
    }

    /**
     * The patches of a file as far as the license goes: none without a license that counts ([state] says why), and then the
     * model has the utility that is free.
     *
     * @param artifact name of the artifact, as it was locked.
     * @param path of the file inside, where the artifact has several.
     * @param upTo the tier to stop at, though the license goes further.
     * @throws CoreLockerException with BUNDLE_MISMATCH for what the bundle does not hold, or another BUNDLE_* code.
     */
    @CoreLockerInternal
    public fun patches(
        artifact: String,
        path: String? = null,
        upTo: String? = null,
    ): Patches {
        val place = bundle.place(artifact, path)
        val most = bundle.tier(upTo ?: bundle.tiers.last())
        val license =
            try {
                current().license
            } catch (unusable: CoreLockerException) {
                if (unusable.code !in LOCKED_BY) throw unusable
                return bundle.patches(place, null, 0, 0)
            }
        val tier = bundle.tier(license.tier)
        return license.open(keyOf(license)).use { bundle.patches(place, it, tier, minOf(tier, most)) }
    }

    private suspend fun asking(ask: suspend () -> License): UnlockResult =
        withContext(dispatcher) {
            device.oneAtATime.withLock {
                try {
                    val license = ask()
                    settle(null)
                    UnlockResult.Unlocked(license)
                } catch (refused: CoreLockerException) {
                    settle(refused.code)
                    UnlockResult.Refused(refused)
                } finally {
                    // A call that was cancelled does not unlock any more.
                    if (states.value is LockState.Unlocking) settle(null)
                    dropUnusedKeys()
                }
            }
        }

    private suspend fun unlocked(
        purchase: Purchase,
        tier: String,
        attempts: UnlockAttempts,
    ): License {
        val listener =
            AttemptListener { attempt, waitingUntil, cause ->
                cause?.let(attempts::refused)
                showAttempt(attempt, waitingUntil, cause)
            }
        var key: DeviceKey? = null
        val answer =
            try {
                service.exchange("/v1/licenses", attempts::challengeMembers, listener) { issued ->
                    val request = UnlockRequest(challenge(issued), config.app, id, tier, purchase.token)
                    val attested = device.keys.attest(request).also { key = it.key }
                    val replaces = attempts.replaces({ sealed(issued) }, request, attested.key)
                    attempts.sending(attested.key)
                    unlockBody(request, attested, purchase, replaces)
                }
            } catch (refused: CoreLockerException) {
                attempts.refused(refused.code)
                throw refused
            }
        repairClock()
        return keep(answer, checkNotNull(key), listOf(tier)).also { attempts.settled() }
    }

    private suspend fun renewed(): License {
        val held = held()
        val key = keyOf(held)
        val attests = device.keys.attestsRenewals
        val asked = if (attests) JsonObject(emptyMap()) else buildJsonObject { put("device_key", Jwk.json(key.publicKey)) }
        val path = "/v1/licenses/${URLEncoder.encode(held.id, "UTF-8").replace("+", "%20")}/renew"
        // Nobody waits for a renewal while the license counts.
        val listener = if (isUsable()) AttemptListener { _, _, _ -> } else AttemptListener(::showAttempt)
        try {
            val answer =
                service.exchange(path, { asked }, listener) { issued ->
                    val token = UnlockRequest.renewalToken(held.id)
                    val request = UnlockRequest(challenge(issued), config.app, id, held.tier, token)
                    buildJsonObject {
                        put("challenge", request.challenge)
                        put("attestation", (if (attests) device.keys.attestRenewal(request, key) else prove(issued, request, key)).json)
                    }
                }
            // A renewal is the new truth: its tier may be another, its end an earlier one.
            return keep(answer, key, anyTier)
        } catch (refused: CoreLockerException) {
            if (refused.code in RIGHT_IS_GONE) device.licenses.remove(id)
            throw refused
        }
    }

    /** Keeps the license in an answer, once it is known to be good and to open on this device. */
    private fun keep(
        answer: JsonObject,
        key: DeviceKey,
        tiers: List<String>,
    ): License {
        val token = Fields.textOrNull(answer["license"]).orEmpty()
        val license = License.read(token, config.licenseKeys)
        check.check(license, expected(key.thumbprint, tiers))
        license.open(key).close()
        device.licenses.save(id, token)
        return license
    }

    private fun held(): License {
        val token = device.licenses.load(id)
        if (token == null) throw CoreLockerException(ErrorCode.NOT_UNLOCKED, "this device holds no license for the key bundle")
        return License.read(token, config.licenseKeys)
    }

    private fun heldKey(): String? =
        try {
            held().device
        } catch (_: CoreLockerException) {
            null
        }

    private fun current(): CheckedLicense {
        val license = held()
        return check.check(license, expected(keyOf(license).thumbprint, anyTier))
    }

    private fun keyOf(license: License): DeviceKey =
        device.keys.find(license.device)
            ?: throw CoreLockerException(ErrorCode.LICENSE_DEVICE, "the license was issued to a key that this device does not hold")

    private fun expected(
        thumbprint: String,
        tiers: List<String>,
    ) = ExpectedLicense(
        issuer = config.issuer,
        app = config.app,
        environment = config.environment,
        bundle = id,
        modelVersion = bundle.modelVersion,
        device = thumbprint,
        offlineGraceSeconds = config.offlineGraceSeconds,
        tiers = tiers,
    )

    private fun isRenewalDue(): Boolean {
        settle(null)
        return try {
            current().use != CheckedLicense.Use.VALID
        } catch (refused: CoreLockerException) {
            refused.code == ErrorCode.LICENSE_EXPIRED
        }
    }

    private fun isUsable() = states.value is LockState.Unlocked || states.value is LockState.OfflineUntil

    /** Says what counts now, where the last call was refused with [refused] or went well. */
    private fun settle(refused: ErrorCode?) {
        states.value =
            try {
                val checked = current()
                val license = checked.license
                val offline = checked.use == CheckedLicense.Use.GRACE || (checked.use == CheckedLicense.Use.RENEW && refused != null)
                val until = license.expiresAt
                if (offline && until != null) {
                    LockState.OfflineUntil(license.tier, until.plusSeconds(config.offlineGraceSeconds))
                } else {
                    LockState.Unlocked(license.tier, until)
                }
            } catch (unusable: CoreLockerException) {
                when {
                    refused != null && refused in RIGHT_IS_GONE -> LockState.Revoked(refused)
                    unusable.code == ErrorCode.LICENSE_EXPIRED -> LockState.Expired
                    unusable.code != ErrorCode.NOT_UNLOCKED -> LockState.Refused(unusable.code)
                    refused != null -> LockState.Refused(refused)
                    else -> LockState.Locked
                }
            }
    }

    private fun showAttempt(
        attempt: Int,
        waitingUntil: Instant?,
        cause: ErrorCode?,
    ) {
        states.value = LockState.Unlocking(attempt, waitingUntil, cause)
    }

    /**
     * Drops a damaged record of the time; the time at which the new license was issued takes its place. Only after the service
     * has answered: offline, whoever damages the record must not turn the clock back with it.
     */
    private fun repairClock() {
        try {
            device.marks.loadMark()
        } catch (damaged: CoreLockerException) {
            if (damaged.code != ErrorCode.LICENSE_CLOCK) throw damaged
            device.marks.removeMark()
        }
    }

    /** Each unlock on Android makes a key; those that nothing names are of calls that were refused, or replaced. */
    private fun dropUnusedKeys() {
        try {
            val ofLicenses = device.licenses.all().map { License.read(it, config.licenseKeys).device }
            device.keys.keepOnly((ofLicenses + device.licenses.allAttempts()).toSet())
        } catch (_: CoreLockerException) {
            // A license that cannot be read now may be read again; its key stays until then.
        }
    }

    private fun challenge(issued: JsonObject): String {
        val challenge = Fields.textOrNull(issued["challenge"])
        if (challenge == null || challenge.length !in 1..MAX_CHALLENGE) throw ServiceProblem.protocol("its answer holds no challenge")
        return challenge
    }

    /** The device key opens the secret that the service sealed to it, and vouches for the request with it. */
    private fun prove(
        issued: JsonObject,
        request: UnlockRequest,
        key: DeviceKey,
    ): Attestation = Attestation.deviceKey(key.prove(sealed(issued), request.digest(key.thumbprint)))

    private fun sealed(issued: JsonObject): ByteArray {
        val sealed = Fields.textOrNull(issued["sealed"])?.let(Base64Url::decodeOrNull)
        if (sealed?.size != SEALED_SIZE) throw ServiceProblem.protocol("its answer holds no secret for the device key")
        return sealed
    }

    private fun unlockBody(
        request: UnlockRequest,
        attested: AttestedKey,
        purchase: Purchase,
        replaces: JsonObject?,
    ) = buildJsonObject {
        put("challenge", request.challenge)
        put("app", request.app)
        put("bundle", request.bundle)
        put("tier", request.tier)
        put("device_key", Jwk.json(attested.key.publicKey))
        put("attestation", attested.attestation.json)
        put("purchase", purchase.json)
        replaces?.let { put("replaces", it) }
    }

    private companion object {
        const val MAX_CHALLENGE = 256
        const val SEALED_SIZE = 113

        /** Why there is no license that counts, now or for good. */
        val LOCKED_BY = ErrorCode.entries.filter { it.word.startsWith("license-") } + ErrorCode.NOT_UNLOCKED
        val RIGHT_IS_GONE =
            setOf(
                ErrorCode.LICENSE_REVOKED,
                ErrorCode.PURCHASE_REVOKED,
                ErrorCode.PURCHASE_SUPERSEDED,
                ErrorCode.DEVICE_INACTIVE,
            )
    }
}
