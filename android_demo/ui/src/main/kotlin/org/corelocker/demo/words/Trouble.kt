package org.corelocker.demo.words

import org.corelocker.core.ErrorCode

/** What an error code means to a customer: codes with the same advice are one trouble. */
enum class Trouble {
    NO_CONNECTION,
    BUSY,
    WRONG_NETWORK,
    CLOCK,
    DEVICE_UNSUPPORTED,
    DEVICE_LIMIT,
    DEVICE_REFUSED,
    PURCHASE_PENDING,
    PURCHASE_ENDED,
    PURCHASE_REFUSED,

    /** The license is of no use here: unlocking again gets another. */
    LICENSE,

    /** A newer app is needed. */
    UPDATE,

    /** The app itself, or what it carries, is damaged or set up wrongly. */
    APP,
    ;

    companion object {
        fun of(code: ErrorCode): Trouble = TROUBLES[code] ?: families.firstOrNull { code.word.startsWith(it.first) }?.second ?: APP

        private val TROUBLES =
            mapOf(
                NO_CONNECTION to listOf(ErrorCode.SERVICE_UNREACHABLE),
                BUSY to
                    ErrorCode.entries.filter { it.retryable && it != ErrorCode.SERVICE_UNREACHABLE } +
                    listOf(ErrorCode.REQUEST_TIMEOUT, ErrorCode.INTERNAL_ERROR, ErrorCode.CHALLENGE_EXPIRED, ErrorCode.CHALLENGE_USED),
                WRONG_NETWORK to listOf(ErrorCode.SERVICE_PROTOCOL),
                CLOCK to listOf(ErrorCode.LICENSE_CLOCK, ErrorCode.LICENSE_NOT_YET_VALID),
                DEVICE_UNSUPPORTED to listOf(ErrorCode.DEVICE_UNSUPPORTED),
                DEVICE_LIMIT to listOf(ErrorCode.DEVICE_LIMIT),
                DEVICE_REFUSED to listOf(ErrorCode.ATTESTATION_REFUSED, ErrorCode.DEVICE_KEY),
                PURCHASE_PENDING to listOf(ErrorCode.PURCHASE_PENDING),
                PURCHASE_ENDED to
                    listOf(
                        ErrorCode.PURCHASE_EXPIRED,
                        ErrorCode.PURCHASE_REVOKED,
                        ErrorCode.PURCHASE_SUPERSEDED,
                        ErrorCode.LICENSE_REVOKED,
                        ErrorCode.DEVICE_INACTIVE,
                    ),
                LICENSE to listOf(ErrorCode.NOT_UNLOCKED),
                UPDATE to listOf(ErrorCode.SERVICE, ErrorCode.BUNDLE_RETIRED, ErrorCode.BUNDLE_VERSION, ErrorCode.PATCH_VERSION),
            ).flatMap { (trouble, codes) -> codes.map { it to trouble } }.toMap()

        private val families = listOf("purchase" to PURCHASE_REFUSED, "license" to LICENSE)
    }
}
