package org.corelocker.core

import java.security.interfaces.ECPublicKey

/**
 * The world that an app is built for; fixed by its configuration, never by an input.
 *
 * ```
 * check(BuildConfig.DEBUG || locker.license().environment == Environment.PRODUCTION)
 * ```
 */
public enum class Environment(
    internal val word: String,
) {
    /** For customers: real purchases, and keys in secure hardware. */
    PRODUCTION("production"),

    /** For emulators and tests: development attestation, and content keys of its own. */
    DEVELOPMENT("development"),
    ;

    internal companion object {
        fun of(word: String?): Environment? = entries.find { it.word == word }
    }
}

/**
 * `corelocker.json`: all that an app needs to know (docs/formats.md, App configuration). `corelocker service app-config`
 * writes it, the app carries it, nothing in it is secret.
 *
 * ```
 * val config = AppConfig.parse(assets.open("corelocker.json").use { it.readBytes() })
 * ```
 *
 * @property service base URL of the unlock service, without a slash at its end.
 * @property issuer who issues the licenses.
 * @property app package name of the app.
 * @property environment that the service has to be of.
 * @property publisher thumbprint of the key that signs the app's key bundles.
 * @property offlineGraceSeconds seconds after its end in which a license still counts.
 */
public class AppConfig private constructor(
    public val service: String,
    public val issuer: String,
    public val app: String,
    public val environment: Environment,
    public val publisher: String,
    public val offlineGraceSeconds: Long,
    internal val licenseKeys: TrustedKeys,
) {
    public companion object {
        private const val FORMAT = "corelocker-app-config"
        private const val MAX_SIZE = 64 shl 10
        private const val MAX_URL = 2048
        private const val MAX_TEXT = 256
        private const val MAX_PORT = 65_535
        private const val MAX_GRACE = 31_536_000L
        private val VERSION = Regex("1\\.[0-9]{1,6}")

        /** Narrow, since URL parsers differ (docs/formats.md, App configuration). */
        private val SERVICE =
            Regex("https?://([A-Za-z0-9.-]+|\\[[0-9A-Fa-f:.]+])(:([0-9]{1,5}))?(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?")

        /**
         * Reads `corelocker.json`. Throws [CoreLockerException] with [ErrorCode.APP_CONFIG].
         *
         * ```
         * val config = AppConfig.parse(assets.open("corelocker.json").use { it.readBytes() })
         * ```
         */
        public fun parse(data: ByteArray): AppConfig {
            if (data.size > MAX_SIZE) throw CoreLockerException(ErrorCode.APP_CONFIG, "the app configuration is too long")
            val fields = Fields.parse(data, "the app configuration", ErrorCode.APP_CONFIG)
            if (Fields.textOrNull(fields.values["format"]) != FORMAT) throw fields.refuse("format is not $FORMAT")
            if (!VERSION.matches(fields.text("version", 16))) throw fields.refuse("version is not 1.MINOR")
            val environment =
                Environment.of(Fields.textOrNull(fields.values["environment"]))
                    ?: throw fields.refuse("environment is neither production nor development")
            val publisher = fields.text("publisher", Jwk.THUMBPRINT_SIZE)
            if (Base64Url.decodeOrNull(publisher)?.size != Hkdf.HASH_SIZE) throw fields.refuse("publisher is no thumbprint")
            return AppConfig(
                service = service(fields, environment),
                issuer = fields.text("issuer", MAX_TEXT),
                app = fields.text("app", MAX_TEXT),
                environment = environment,
                publisher = publisher,
                offlineGraceSeconds = if ("offline_grace" in fields) fields.integer("offline_grace", 0..MAX_GRACE) else 0,
                licenseKeys = keys(fields),
            )
        }

        private fun service(
            fields: Fields,
            environment: Environment,
        ): String {
            val url = fields.text("service", MAX_URL)
            val match = SERVICE.matchEntire(url) ?: throw fields.refuse("service is no URL of the form that is allowed")
            val port = match.groupValues[3]
            if (port != "" && port.toInt() !in 1..MAX_PORT) throw fields.refuse("service has no such port")
            if (environment == Environment.PRODUCTION && !url.startsWith("https:")) throw fields.refuse("service is not reached by https")
            return url.trimEnd('/')
        }

        private fun keys(fields: Fields): TrustedKeys {
            val keys =
                fields.child("license_keys").objects("keys").map { entry ->
                    Jwk.keyOrNull(entry.values) ?: throw entry.refuse("it is no public key of P-256")
                }
            if (keys.size !in 1..TrustedKeys.MOST) throw fields.refuse("there are not 1 to ${TrustedKeys.MOST} license keys")
            return TrustedKeys(keys)
        }
    }
}

/** Public keys whose signatures count, by their thumbprint; several while keys rotate. */
internal class TrustedKeys(
    keys: List<ECPublicKey>,
) {
    private val keys = keys.associateBy(Jwk::thumbprint)

    /** The key of this thumbprint, or all keys when a token names none. */
    fun candidates(kid: String?): Collection<ECPublicKey> = if (kid == null) keys.values else listOfNotNull(keys[kid])

    companion object {
        const val MOST = 8
    }
}
