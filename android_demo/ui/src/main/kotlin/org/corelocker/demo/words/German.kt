package org.corelocker.demo.words

import org.corelocker.core.ErrorCode
import java.util.Locale

object German : Strings {
    override val locale: Locale = Locale.GERMANY

    override val classify = "Erkennen"
    override val compare = "Vergleich"
    override val access = "Zugang"
    override val plans = "Angebote ansehen"
    override val close = "Schließen"
    override val dismiss = "OK"
    override val classes =
        listOf("T-Shirt", "Hose", "Pullover", "Kleid", "Mantel", "Sandale", "Hemd", "Turnschuh", "Tasche", "Stiefelette")

    override val chooseSample = "Testbilder"
    override val pickPhoto = "Foto wählen"
    override val yourPhoto = "Dein Foto"
    override val whatTheModelSees = "Was das Modell sieht"
    override val itIs = "Das Modell sagt"
    override val right = "Richtig"
    override val wrong = "Falsch"
    override val photoUnreadable = "Dieses Foto lässt sich nicht lesen. Wähle ein anderes."

    override fun sample(number: Int) = "Testbild $number"

    override fun inTier(tier: String) = "Modell „$tier“"

    override fun confidence(percent: String) = "zu $percent sicher"

    override fun modelFails(code: String) = "Das Modell läuft auf diesem Telefon nicht ($code)."

    override val compareTitle = "Was der Schlüssel wert ist"
    override val accuracy = "Genauigkeit"
    override val latency = "Zeit für ein Bild"
    override val loading = "Wiederherstellen und laden"
    override val measure = "Auf diesem Telefon messen"
    override val measureAgain = "Noch einmal messen"
    override val stop = "Anhalten"
    override val notMeasured = "Lässt das Modell Bilder erkennen: gesperrt, wie es ausgeliefert wird, und so weit deine Lizenz reicht."
    override val guess = "Blind geraten"
    override val unlockToCompare = "Schalte das Modell frei, um es mit dem gesperrten zu vergleichen."

    override fun measuring(
        tier: String,
        done: Int,
        total: Int,
    ) = "$tier: $done von $total Bildern"

    override fun measuredOn(total: Int) = "Hier gemessen, an $total Bildern, mit denen das Modell nicht trainiert wurde."

    override fun correctOf(
        correct: Int,
        total: Int,
    ) = "$correct von $total richtig"

    override val plansTitle = "Modell freischalten"
    override val plansText = "Das Modell ist schon auf deinem Telefon. Ein Angebot bringt zurück, was herausgenommen wurde."
    override val current = "Aktiv"
    override val devices = "Gebunden an einen Schlüssel in der Sicherheitshardware dieses Telefons"
    override val privacy = "Bilder verlassen nie das Telefon"
    override val offline = "Läuft zwischen zwei Verlängerungen ohne Netz"
    override val restorePurchases = "Käufe wiederherstellen"
    override val shopUnavailable = "Der Laden ist nicht zu erreichen. Prüfe die Verbindung und versuche es noch einmal."
    override val tryAgain = "Noch einmal"
    override val loadingPlans = "Angebote werden geladen"

    override fun tierName(tier: String) =
        when (tier) {
            "free" -> "Gratis"
            "plus" -> "Plus"
            "full" -> "Voll"
            else -> tier
        }

    override fun tierText(tier: String) =
        when (tier) {
            "free" -> "Wie ausgeliefert. Kaum besser als geraten."
            "plus" -> "Der größte Teil. Meistens richtig."
            "full" -> "Das ganze Modell, Bit für Bit."
            else -> ""
        }

    override fun buy(
        tier: String,
        price: String,
    ) = "$tier für $price freischalten"

    override val license = "Lizenz"
    override val noLicense = "Auf diesem Telefon ist keine Lizenz."
    override val tier = "Angebot"
    override val issued = "Ausgestellt"
    override val ends = "Endet"
    override val never = "Nie"
    override val renewsAfter = "Verlängert ab"
    override val licenseId = "Lizenznummer"
    override val deviceKey = "Geräteschlüssel"
    override val modelVersion = "Modellversion"
    override val app = "App"
    override val environment = "Umgebung"
    override val development = "Entwicklung"
    override val production = "Produktion"
    override val renewNow = "Jetzt verlängern"
    override val remove = "Von diesem Telefon entfernen"
    override val removeTitle = "Lizenz entfernen?"
    override val removeNow = "Entfernen"
    override val removeText = "Das Modell wird wieder gesperrt. Der Kauf bleibt dir und lässt sich wiederherstellen."
    override val cancel = "Abbrechen"

    override val nothingToRestore = "Für dein Konto wurden keine Käufe gefunden."
    override val removed = "Die Lizenz wurde entfernt."
    override val renewed = "Die Lizenz wurde verlängert."
    override val unlocked = "Freigeschaltet. Danke!"
    override val acknowledgeLater = "Freigeschaltet. Der Laden erfährt es, sobald er zu erreichen ist."

    override val stateLocked = Words("Gesperrt", "Das Modell läuft wie ausgeliefert und irrt sich meistens. Ein Angebot schaltet es frei.")
    override val stateUnlocking = Words("Wird freigeschaltet…", "Der Freischaltdienst prüft dein Telefon und deinen Kauf.")
    override val stateUnlocked = "freigeschaltet"
    override val stateUnlockedForGood = "Für immer. Nichts zu verlängern."
    override val stateExpired = Words("Lizenz abgelaufen", "Der Kauf bleibt dir. Geh online und verlängere die Lizenz.")
    override val statePending = Words("Zahlung steht aus", "Das Modell wird freigeschaltet, sobald der Laden dein Geld hat.")
    override val codeLabel = "Code"

    override fun stateWaiting(
        cause: Trouble?,
        attempt: Int,
        time: String,
    ) = Words(
        if (cause == Trouble.NO_CONNECTION) "Warten auf Verbindung" else "Der Dienst ist ausgelastet",
        "Versuch $attempt beginnt um $time. " +
            if (cause == Trouble.NO_CONNECTION) "Prüfe die Internetverbindung." else "Du musst nichts tun.",
    )

    override fun stateUnlockedUntil(date: String) = "Bis $date. Verlängert sich von selbst."

    override fun stateOffline(
        tier: String,
        date: String,
    ) = Words("$tier · offline", "Läuft bis $date. Geh vorher online, um zu verlängern.")

    override fun revoked(code: ErrorCode) =
        when (code) {
            ErrorCode.PURCHASE_REVOKED -> Words("Kauf erstattet", "Der Kauf wurde rückgängig gemacht; das Modell ist wieder gesperrt.")
            ErrorCode.PURCHASE_SUPERSEDED -> Words("Kauf ersetzt", "Ein anderer Kauf trat an seine Stelle. Stelle deine Käufe wieder her.")
            ErrorCode.DEVICE_INACTIVE -> Words("Auf ein anderes Telefon gewechselt", "Ein anderes nutzt deinen Kauf. Hol ihn zurück.")
            else -> Words("Lizenz widerrufen", "Der Anbieter hat die Lizenz zurückgenommen. Frage den Support nach dem Grund.")
        }

    override fun trouble(trouble: Trouble) =
        when (trouble) {
            Trouble.NO_CONNECTION -> {
                Words("Keine Verbindung", "Der Freischaltdienst antwortet nicht. Prüfe die Internetverbindung.")
            }

            Trouble.BUSY -> {
                Words("Dienst ausgelastet", "Der Freischaltdienst hat zu viel zu tun. Versuche es in ein paar Minuten wieder.")
            }

            Trouble.WRONG_NETWORK -> {
                Words("Netz dazwischen", "Etwas anderes antwortet. Melde dich im WLAN an oder nimm ein anderes Netz.")
            }

            Trouble.CLOCK -> {
                Words("Uhr geht falsch", "Stelle Datum und Uhrzeit des Telefons auf automatisch.")
            }

            Trouble.DEVICE_UNSUPPORTED -> {
                Words("Telefon zu alt", "Freischalten braucht Android 12 und neuere Sicherheitshardware. Das Gratismodell läuft trotzdem.")
            }

            Trouble.DEVICE_LIMIT -> {
                Words("Zu viele Telefone", "Dein Kauf ist auf so vielen in Gebrauch, wie er erlaubt. Entferne eins.")
            }

            Trouble.DEVICE_REFUSED -> {
                Words("Telefon nicht vertrauenswürdig", "Es konnte nicht beweisen, dass sein System unverändert ist.")
            }

            Trouble.PURCHASE_PENDING -> {
                statePending
            }

            Trouble.PURCHASE_ENDED -> {
                Words("Kauf beendet", "Was bezahlt war, ist vorbei. Ein neues Angebot schaltet wieder frei.")
            }

            Trouble.PURCHASE_REFUSED -> {
                Words("Kauf nicht angenommen", "Der Laden hat ihn nicht bestätigt. War er bezahlt, frage den Support.")
            }

            Trouble.LICENSE -> {
                Words("Lizenz passt nicht", "Sie ist nicht für dieses Telefon. Stelle deine Käufe wieder her.")
            }

            Trouble.UPDATE -> {
                Words("Aktualisieren", "Installiere die neueste Version der App und schalte dann wieder frei.")
            }

            Trouble.APP -> {
                Words("Die App ist beschädigt", "Installiere sie neu. Hilft das nicht, nenne dem Support den Code.")
            }
        }

    override fun placeFreeAt(date: String) = "Ein Platz wird frei am $date."
}
