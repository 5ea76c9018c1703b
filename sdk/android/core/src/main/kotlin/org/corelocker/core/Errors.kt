package org.corelocker.core

import java.time.Instant

/**
 * Why something was refused. [word] is the code that all languages share; docs/errors.md says what to do about each.
 *
 * ```
 * if (refused.code.retryable) showRetry() else showHelp(refused.code.word)
 * ```
 *
 * @property word as docs/errors.md and the service spell it.
 * @property retryable whether the same call may succeed later although nothing was changed.
 */
@Suppress("UndocumentedPublicProperty") // of each code docs/errors.md says what it means
public enum class ErrorCode(
    public val word: String,
    public val retryable: Boolean = false,
) {
    APP_CONFIG("app-config"),
    ARGUMENT("argument"),
    CANONICAL_JSON("canonical-json"),
    FILE_ACCESS("file-access"),
    FILE_CHANGED("file-changed"),
    MEMORY("memory"),

    BUNDLE_CONTENT_KEY("bundle-content-key"),
    BUNDLE_HEADER("bundle-header"),
    BUNDLE_MAGIC("bundle-magic"),
    BUNDLE_MISMATCH("bundle-mismatch"),
    BUNDLE_PUBLISHER("bundle-publisher"),
    BUNDLE_SIGNATURE("bundle-signature"),
    BUNDLE_TRAILING("bundle-trailing"),
    BUNDLE_TRUNCATED("bundle-truncated"),
    BUNDLE_VERSION("bundle-version"),

    PATCH_BOUNDS("patch-bounds"),
    PATCH_KIND("patch-kind"),
    PATCH_MAGIC("patch-magic"),
    PATCH_ORDER("patch-order"),
    PATCH_OVERFLOW("patch-overflow"),
    PATCH_OVERLAP("patch-overlap"),
    PATCH_PADDING("patch-padding"),
    PATCH_PAYLOAD("patch-payload"),
    PATCH_RESERVED("patch-reserved"),
    PATCH_RUN("patch-run"),
    PATCH_TABLE("patch-table"),
    PATCH_TRAILING("patch-trailing"),
    PATCH_TRUNCATED("patch-truncated"),
    PATCH_VERSION("patch-version"),

    RESTORE_ALREADY("restore-already"),
    RESTORE_REPLACED("restore-replaced"),
    RESTORE_RESTORED("restore-restored"),
    RESTORE_SIZE("restore-size"),

    LICENSE("license"),
    LICENSE_AUDIENCE("license-audience"),
    LICENSE_BUNDLE("license-bundle"),
    LICENSE_CLOCK("license-clock"),
    LICENSE_DEVICE("license-device"),
    LICENSE_ENVIRONMENT("license-environment"),
    LICENSE_EXPIRED("license-expired"),
    LICENSE_FORMAT("license-format"),
    LICENSE_ISSUER("license-issuer"),
    LICENSE_MODEL_VERSION("license-model-version"),
    LICENSE_NOT_YET_VALID("license-not-yet-valid"),
    LICENSE_REVOKED("license-revoked"),
    LICENSE_SIGNATURE("license-signature"),
    LICENSE_TIER("license-tier"),
    LICENSE_TYPE("license-type"),
    LICENSE_UNKNOWN("license-unknown"),
    LICENSE_WRAP("license-wrap"),
    NOT_UNLOCKED("not-unlocked"),

    /** This phone has no secure hardware that agrees on keys. See the message for what to do. */
    DEVICE_UNSUPPORTED("device-unsupported"),

    /** The phone's secure hardware, or the app's `integrityToken`, cannot answer now: busy, or waiting for a network or a restart. */
    DEVICE_BUSY("device-busy", retryable = true),
    DEVICE_INACTIVE("device-inactive"),

    /** The purchase is in use on as many devices as it allows; [CoreLockerException.retryAt] says when one may take a place. */
    DEVICE_LIMIT("device-limit"),
    DEVICE_KEY("device-key"),

    ATTESTATION_REFUSED("attestation-refused"),

    PURCHASE("purchase"),
    PURCHASE_ACCOUNT("purchase-account"),
    PURCHASE_APP("purchase-app"),
    PURCHASE_ENVIRONMENT("purchase-environment"),
    PURCHASE_EXPIRED("purchase-expired"),
    PURCHASE_FORMAT("purchase-format"),
    PURCHASE_NOTICE("purchase-notice"),
    PURCHASE_NOT_FOUND("purchase-not-found"),
    PURCHASE_NOT_YET_VALID("purchase-not-yet-valid"),
    PURCHASE_PENDING("purchase-pending"),
    PURCHASE_PRODUCT("purchase-product"),
    PURCHASE_REVOKED("purchase-revoked"),
    PURCHASE_SIGNATURE("purchase-signature"),
    PURCHASE_STALE("purchase-stale"),
    PURCHASE_SUPERSEDED("purchase-superseded"),
    PURCHASE_UPSTREAM("purchase-upstream", retryable = true),
    PURCHASE_UPSTREAM_DENIED("purchase-upstream-denied", retryable = true),

    APP_UNKNOWN("app-unknown"),
    BUNDLE_RETIRED("bundle-retired"),
    BUNDLE_UNKNOWN("bundle-unknown"),
    CHALLENGE_EXPIRED("challenge-expired"),
    CHALLENGE_MALFORMED("challenge-malformed"),
    CHALLENGE_USED("challenge-used"),
    FORMAT_NOT_ALLOWED("format-not-allowed"),
    HEADERS_TOO_LARGE("headers-too-large"),
    INTERNAL_ERROR("internal-error"),
    METHOD_NOT_ALLOWED("method-not-allowed"),
    NOT_FOUND("not-found"),
    PAYLOAD_TOO_LARGE("payload-too-large"),
    PROVIDER_NOT_ALLOWED("provider-not-allowed"),
    REQUEST_MALFORMED("request-malformed"),
    REQUEST_TIMEOUT("request-timeout"),
    TIER_UNKNOWN("tier-unknown"),
    UNSUPPORTED_MEDIA_TYPE("unsupported-media-type"),
    NOT_READY("not-ready", retryable = true),
    OVERLOADED("overloaded", retryable = true),
    RATE_LIMITED("rate-limited", retryable = true),
    TIMEOUT("timeout", retryable = true),
    STORAGE_UNAVAILABLE("storage-unavailable", retryable = true),

    /** The service refused for a reason that this version does not know. */
    SERVICE("service"),

    /** The service, or something in front of it, asks to come back later. */
    SERVICE_BUSY("service-busy", retryable = true),

    /** What answered does not speak the unlock service's protocol: a proxy, a captive portal, another program. */
    SERVICE_PROTOCOL("service-protocol"),

    /** No answer: no network, no server, a broken connection, a time-out or a certificate that is not trusted. */
    SERVICE_UNREACHABLE("service-unreachable", retryable = true),
    ;

    public companion object {
        private val byWord = entries.associateBy(ErrorCode::word)

        /**
         * The code with this word, or null.
         *
         * ```
         * check(ErrorCode.of("device-limit") == ErrorCode.DEVICE_LIMIT)
         * ```
         */
        public fun of(word: String): ErrorCode? = byWord[word]
    }
}

/**
 * CoreLocker refuses something. The message is for developers; it never holds a key, a token or a byte of a model.
 *
 * ```
 * try { locker.restore("classifier.pte") } catch (refused: CoreLockerException) { show(refused.code) }
 * ```
 *
 * @property code what to decide by.
 * @property retryAt with [ErrorCode.DEVICE_LIMIT]: from when on a new device may take a place.
 */
public class CoreLockerException(
    public val code: ErrorCode,
    message: String,
    public val retryAt: Instant? = null,
) : Exception("${code.word}: $message")
