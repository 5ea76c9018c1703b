package org.corelocker.demo.words

import org.corelocker.core.ErrorCode
import java.util.Locale

object English : Strings {
    override val locale: Locale = Locale.US

    override val classify = "Classify"
    override val compare = "Compare"
    override val access = "Access"
    override val plans = "See plans"
    override val close = "Close"
    override val dismiss = "OK"
    override val classes =
        listOf("T-shirt", "Trousers", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

    override val chooseSample = "Test pictures"
    override val pickPhoto = "Pick a photo"
    override val yourPhoto = "Your photo"
    override val whatTheModelSees = "What the model sees"
    override val itIs = "The model says"
    override val right = "Right"
    override val wrong = "Wrong"
    override val photoUnreadable = "This photo cannot be read. Pick another one."

    override fun sample(number: Int) = "Test picture $number"

    override fun inTier(tier: String) = "$tier model"

    override fun confidence(percent: String) = "$percent sure"

    override fun modelFails(code: String) = "The model cannot run on this phone ($code)."

    override val compareTitle = "What the key is worth"
    override val accuracy = "Accuracy"
    override val latency = "Time for one picture"
    override val loading = "Restore and load"
    override val measure = "Measure on this phone"
    override val measureAgain = "Measure again"
    override val stop = "Stop"
    override val notMeasured = "Runs the model on labelled pictures: locked, as it ships, and as far as your license goes."
    override val guess = "Blind guess"
    override val unlockToCompare = "Unlock the model to compare it with the locked one."

    override fun measuring(
        tier: String,
        done: Int,
        total: Int,
    ) = "$tier: $done of $total pictures"

    override fun measuredOn(total: Int) = "Measured here, on $total pictures that the model was not trained on."

    override fun correctOf(
        correct: Int,
        total: Int,
    ) = "$correct of $total right"

    override val plansTitle = "Unlock the model"
    override val plansText = "The model is on your phone already. A plan brings back what was taken out of it."
    override val current = "Active"
    override val devices = "Bound to a key in this phone's secure hardware"
    override val privacy = "Pictures never leave the phone"
    override val offline = "Works offline between renewals"
    override val restorePurchases = "Restore purchases"
    override val shopUnavailable = "The shop cannot be reached. Check the connection and try again."
    override val tryAgain = "Try again"
    override val loadingPlans = "Loading plans"

    override fun tierName(tier: String) =
        when (tier) {
            "free" -> "Free"
            "plus" -> "Plus"
            "full" -> "Full"
            else -> tier
        }

    override fun tierText(tier: String) =
        when (tier) {
            "free" -> "As it ships. Hardly better than a guess."
            "plus" -> "Most of the model. Right most of the time."
            "full" -> "All of the model, bit for bit."
            else -> ""
        }

    override fun buy(
        tier: String,
        price: String,
    ) = "Unlock $tier for $price"

    override val license = "License"
    override val noLicense = "This phone holds no license."
    override val tier = "Plan"
    override val issued = "Issued"
    override val ends = "Ends"
    override val never = "Never"
    override val renewsAfter = "Renews after"
    override val licenseId = "License number"
    override val deviceKey = "Device key"
    override val modelVersion = "Model version"
    override val app = "App"
    override val environment = "Environment"
    override val development = "Development"
    override val production = "Production"
    override val renewNow = "Renew now"
    override val remove = "Remove from this phone"
    override val removeTitle = "Remove the license?"
    override val removeNow = "Remove"
    override val removeText = "The model is locked again. You keep your purchase and can restore it."
    override val cancel = "Cancel"

    override val nothingToRestore = "No purchases were found for your account."
    override val removed = "The license was removed."
    override val renewed = "The license was renewed."
    override val unlocked = "Unlocked. Thank you!"
    override val acknowledgeLater = "Unlocked. The shop will be told when it can be reached."

    override val stateLocked = Words("Locked", "The model runs as it ships, and is mostly wrong. A plan unlocks it.")
    override val stateUnlocking = Words("Unlocking…", "The unlock service checks your phone and your purchase.")
    override val stateUnlocked = "unlocked"
    override val stateUnlockedForGood = "For good. Nothing to renew."
    override val stateExpired = Words("License ended", "You keep your purchase. Go online and renew the license.")
    override val statePending = Words("Payment pending", "The model unlocks as soon as the shop has your payment.")
    override val codeLabel = "Code"

    override fun stateWaiting(
        cause: Trouble?,
        attempt: Int,
        time: String,
    ) = Words(
        if (cause == Trouble.NO_CONNECTION) "Waiting for a connection" else "The service is busy",
        "Try $attempt starts at $time. " +
            if (cause == Trouble.NO_CONNECTION) "Check your internet connection." else "You need not do anything.",
    )

    override fun stateUnlockedUntil(date: String) = "Until $date. It renews by itself."

    override fun stateOffline(
        tier: String,
        date: String,
    ) = Words("$tier · offline", "Works until $date. Go online before then to renew.")

    override fun revoked(code: ErrorCode) =
        when (code) {
            ErrorCode.PURCHASE_REVOKED -> Words("Purchase refunded", "The purchase was taken back, so the model is locked again.")
            ErrorCode.PURCHASE_SUPERSEDED -> Words("Purchase replaced", "Another purchase took its place. Restore your purchases.")
            ErrorCode.DEVICE_INACTIVE -> Words("Moved to another phone", "Another phone uses your purchase now. Restore it to come back.")
            else -> Words("License revoked", "The publisher took the license back. Ask support why.")
        }

    override fun trouble(trouble: Trouble) =
        when (trouble) {
            Trouble.NO_CONNECTION -> {
                Words("No connection", "The unlock service did not answer. Check the connection and try again.")
            }

            Trouble.BUSY -> {
                Words("Service busy", "The unlock service has too much to do. Try again in a few minutes.")
            }

            Trouble.WRONG_NETWORK -> {
                Words("Network in between", "Something else answered. Sign in to the Wi-Fi, or use another network.")
            }

            Trouble.CLOCK -> {
                Words("Clock is wrong", "Set date and time of the phone to automatic, then try again.")
            }

            Trouble.DEVICE_UNSUPPORTED -> {
                Words("Phone not supported", "Unlocking needs Android 12 and newer secure hardware. The free model still works.")
            }

            Trouble.DEVICE_LIMIT -> {
                Words("Too many phones", "Your purchase is in use on as many phones as it allows. Remove it from one.")
            }

            Trouble.DEVICE_REFUSED -> {
                Words("Phone not trusted", "This phone could not prove that its system is unchanged. Unlocked boot loaders are not served.")
            }

            Trouble.PURCHASE_PENDING -> {
                statePending
            }

            Trouble.PURCHASE_ENDED -> {
                Words("Purchase ended", "What was paid for is over. A new plan unlocks the model again.")
            }

            Trouble.PURCHASE_REFUSED -> {
                Words("Purchase not accepted", "The shop did not confirm it. If you were charged, ask support.")
            }

            Trouble.LICENSE -> {
                Words("License does not fit", "It is not for this phone or app. Restore your purchases to get a new one.")
            }

            Trouble.UPDATE -> {
                Words("Update needed", "Install the newest version of the app, then unlock again.")
            }

            Trouble.APP -> {
                Words("The app is damaged", "Install it again. If that does not help, tell support the code.")
            }
        }

    override fun placeFreeAt(date: String) = "A place becomes free on $date."
}
