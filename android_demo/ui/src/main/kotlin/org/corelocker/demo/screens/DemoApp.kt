package org.corelocker.demo.screens

import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.Icon
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.NavigationBar
import androidx.compose.material3.NavigationBarItem
import androidx.compose.material3.Scaffold
import androidx.compose.material3.SnackbarDuration
import androidx.compose.material3.SnackbarHost
import androidx.compose.material3.SnackbarHostState
import androidx.compose.material3.Text
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import org.corelocker.demo.ui.Icons
import org.corelocker.demo.ui.NoticeCard
import org.corelocker.demo.ui.hasLargeLetters
import org.corelocker.demo.words.LocalStrings
import org.corelocker.demo.words.Remedy
import org.corelocker.demo.words.Strings
import org.corelocker.demo.words.Trouble
import org.corelocker.demo.words.notice

/** The places of the navigation bar. */
enum class Tab(
    val icon: ImageVector,
) {
    CLASSIFY(Icons.photo),
    COMPARE(Icons.chart),
    ACCESS(Icons.key),
    ;

    fun title(strings: Strings) =
        when (this) {
            CLASSIFY -> strings.classify
            COMPARE -> strings.compare
            ACCESS -> strings.access
        }
}

/** The view models of the app. */
class DemoModels(
    val classify: ClassifyViewModel,
    val compare: CompareViewModel,
    val access: AccessViewModel,
)

/**
 * The whole app.
 *
 * @param onPickPhoto opens the platform's photo picker; what is picked goes to [ClassifyViewModel.choosePhoto].
 * @param backHandler calls its second argument when the user goes back and its first is true.
 */
@Composable
fun DemoApp(
    models: DemoModels,
    onPickPhoto: () -> Unit,
    backHandler: @Composable (Boolean, () -> Unit) -> Unit = { _, _ -> },
) {
    val access by models.access.state.collectAsStateWithLifecycle()
    var tab by rememberSaveable { mutableStateOf(Tab.CLASSIFY) }
    // The tier that counted when the plans were opened; a higher one closes them.
    var plansFrom by rememberSaveable { mutableStateOf<Int?>(null) }
    val plans = plansFrom?.let { access.place <= it } ?: false
    LaunchedEffect(plans) { if (!plans) plansFrom = null }
    backHandler(plans) { plansFrom = null }
    val actions =
        AccessActions(
            onPlans = {
                models.access.loadOffers()
                plansFrom = access.place
            },
            onRestore = models.access::restorePurchases,
            onRenew = models.access::renew,
            onForget = models.access::forget,
        )
    DemoScaffold(tab.takeIf { !plans }, { tab = it }, access.message?.let { words(it) }, models.access::messageShown) {
        val notice = @Composable { StateNotice(access, actions) }
        if (plans) {
            PlansScreen(access, models.access::buy, models.access::loadOffers, models.access::restorePurchases, { plansFrom = null }) {
                StateNotice(access)
            }
        } else {
            when (tab) {
                Tab.CLASSIFY -> ClassifyRoute(models.classify, onPickPhoto, notice)
                Tab.COMPARE -> CompareRoute(models.compare, access, notice)
                Tab.ACCESS -> AccessScreen(access, actions) { StateNotice(access) }
            }
        }
    }
}

@Composable
private fun ClassifyRoute(
    model: ClassifyViewModel,
    onPickPhoto: () -> Unit,
    notice: @Composable () -> Unit,
) {
    val state by model.state.collectAsStateWithLifecycle()
    ClassifyScreen(state, model::chooseSample, onPickPhoto, notice)
}

@Composable
private fun CompareRoute(
    model: CompareViewModel,
    access: AccessState,
    notice: @Composable () -> Unit,
) {
    val state by model.state.collectAsStateWithLifecycle()
    CompareScreen(state, canCompare = access.place > 0, model::measure, model::stop, notice)
}

/** The state in words; without [actions] where the screen below has what helps. */
@Composable
fun StateNotice(
    access: AccessState,
    actions: AccessActions? = null,
) {
    val notice = LocalStrings.current.notice(access.lock)
    val onRemedy: (Remedy) -> Unit = {
        when (it) {
            Remedy.PLANS -> actions?.onPlans()
            Remedy.RENEW -> actions?.onRenew()
            Remedy.RESTORE -> actions?.onRestore()
        }
    }
    NoticeCard(if (actions != null) notice else notice.copy(remedy = null), onRemedy, busy = access.busy)
}

/** Title, navigation and messages around a screen; without [tab], the screen stands alone. */
@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun DemoScaffold(
    tab: Tab?,
    onTab: (Tab) -> Unit,
    message: String? = null,
    onMessageShown: () -> Unit = {},
    content: @Composable () -> Unit,
) {
    val strings = LocalStrings.current
    val snackbar = remember { SnackbarHostState() }
    LaunchedEffect(message) {
        if (message != null) {
            snackbar.showSnackbar(message, strings.dismiss, duration = SnackbarDuration.Long)
            onMessageShown()
        }
    }
    Scaffold(
        topBar = {
            if (tab != null) {
                val type = MaterialTheme.typography
                val style = if (hasLargeLetters) type.titleLarge else type.headlineMedium
                TopAppBar(title = { Text(tab.title(strings), Modifier.semantics { heading() }, style = style) })
            }
        },
        bottomBar = { if (tab != null) Navigation(tab, onTab) },
        snackbarHost = { SnackbarHost(snackbar) },
    ) { padding ->
        Box(Modifier.fillMaxSize().padding(padding)) { content() }
    }
}

@Composable
private fun Navigation(
    tab: Tab,
    onTab: (Tab) -> Unit,
) {
    val strings = LocalStrings.current
    NavigationBar {
        for (other in Tab.entries) {
            NavigationBarItem(
                selected = other == tab,
                onClick = { onTab(other) },
                icon = { Icon(other.icon, contentDescription = null) },
                label = { Text(other.title(strings)) },
            )
        }
    }
}

/** What a snackbar says. */
@Composable
fun words(message: Message): String {
    val strings = LocalStrings.current
    return when (message) {
        Message.Unlocked -> {
            strings.unlocked
        }

        Message.AcknowledgeLater -> {
            strings.acknowledgeLater
        }

        Message.Renewed -> {
            strings.renewed
        }

        Message.Removed -> {
            strings.removed
        }

        Message.NothingToRestore -> {
            strings.nothingToRestore
        }

        Message.PaymentPending -> {
            strings.statePending.text
        }

        Message.ShopUnavailable -> {
            strings.shopUnavailable
        }

        is Message.Refused -> {
            val advice = strings.trouble(Trouble.of(message.refusal.code)).text
            message.refusal.retryAt?.let { "$advice ${strings.placeFreeAt(strings.date(it))}" } ?: advice
        }
    }
}
