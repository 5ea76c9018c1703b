package org.corelocker.core

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put

/**
 * The former keys of the device during one unlock, for keys that are new in each request: which one hands its place of the
 * purchase to the new key, and which keys are kept for the next unlock because the service may have given them a place
 * (docs/formats.md, Replaced key).
 *
 * @param held thumbprint of the key that the license is issued to, if one is held.
 */
internal class UnlockAttempts(
    private val device: Device,
    private val bundle: String,
    private val held: String?,
) {
    private val isNeeded = device.keys.makesKeyForEachUnlock

    /** Thumbprints of the keys of requests whose answer is not known, oldest first. */
    private val unanswered = if (isNeeded) device.licenses.loadAttempts(bundle).toMutableList() else mutableListOf()
    private val useless = HashSet<String>()
    private var named: DeviceKey? = null
    private var asking: String? = null

    /** The members of the next try's challenge request: the former key that it names, if there is one. */
    fun challengeMembers(): JsonObject {
        asking = null
        named = if (isNeeded) nextFormerKey() else null
        return buildJsonObject { named?.let { put("device_key", Jwk.json(it.publicKey)) } }
    }

    /** The member `replaces` of the request, null without a former key that can be used. */
    fun replaces(
        sealed: () -> ByteArray,
        request: UnlockRequest,
        key: DeviceKey,
    ): JsonObject? {
        val former = named ?: return null
        val secret = sealed()
        val proof =
            try {
                former.prove(secret, request.replacementDigest(key.thumbprint))
            } catch (unusable: CoreLockerException) {
                if (unusable.code == ErrorCode.DEVICE_BUSY) throw unusable
                // It has been invalidated; the unlock goes on without it.
                dropNamed()
                return null
            }
        return buildJsonObject {
            put("device_key", Jwk.json(former.publicKey))
            put("proof", Base64Url.encode(proof))
        }
    }

    /** Remembers the key before the request with it is sent. */
    fun sending(key: DeviceKey) {
        if (!isNeeded) return
        asking = key.thumbprint
        unanswered += key.thumbprint
        save()
    }

    /** What the last try was refused with: a key that got no place for certain is not kept. */
    fun refused(code: ErrorCode) {
        if (code !in UNKNOWN_OUTCOME && unanswered.remove(asking)) save()
        asking = null
    }

    /** The former key that was named holds no place of the purchase; whether there is another one to name. */
    fun hasAnother(): Boolean {
        dropNamed()
        return isNeeded && nextFormerKey() != null
    }

    /** The new license is stored: its key holds the place, and no other is needed. */
    fun settled() {
        if (unanswered.isEmpty()) return
        unanswered.clear()
        save()
    }

    private fun nextFormerKey(): DeviceKey? =
        (unanswered.asReversed() + listOfNotNull(held)).filter { it !in useless }.firstNotNullOfOrNull { thumbprint ->
            findOrNull(thumbprint).also { if (it == null) drop(thumbprint) }
        }

    private fun dropNamed() {
        named?.let { drop(it.thumbprint) }
        named = null
    }

    private fun drop(thumbprint: String) {
        useless += thumbprint
        if (unanswered.remove(thumbprint)) save()
    }

    private fun findOrNull(thumbprint: String): DeviceKey? =
        try {
            device.keys.find(thumbprint)
        } catch (gone: CoreLockerException) {
            if (gone.code != ErrorCode.LICENSE_DEVICE) throw gone
            null
        }

    private fun save() {
        while (unanswered.size > MOST) unanswered.removeAt(0)
        device.licenses.saveAttempts(bundle, unanswered)
    }

    private companion object {
        const val MOST = 8

        /** After these the service may have decided, and the answer is lost. */
        val UNKNOWN_OUTCOME =
            setOf(
                ErrorCode.CHALLENGE_USED,
                ErrorCode.INTERNAL_ERROR,
                ErrorCode.SERVICE,
                ErrorCode.SERVICE_BUSY,
                ErrorCode.SERVICE_PROTOCOL,
                ErrorCode.SERVICE_UNREACHABLE,
                ErrorCode.STORAGE_UNAVAILABLE,
                ErrorCode.TIMEOUT,
            )
    }
}
