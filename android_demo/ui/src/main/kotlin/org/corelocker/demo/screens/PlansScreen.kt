package org.corelocker.demo.screens

import androidx.compose.foundation.BorderStroke
import androidx.compose.foundation.background
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.selection.selectable
import androidx.compose.foundation.selection.selectableGroup
import androidx.compose.foundation.shape.CircleShape
import androidx.compose.material3.Button
import androidx.compose.material3.CircularProgressIndicator
import androidx.compose.material3.FilledTonalButton
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.RadioButton
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.clip
import androidx.compose.ui.graphics.Brush
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.style.TextAlign
import androidx.compose.ui.unit.dp
import org.corelocker.demo.model.Offer
import org.corelocker.demo.ui.Icons
import org.corelocker.demo.ui.ScreenColumn
import org.corelocker.demo.words.LocalStrings

/** The plans, one of which can be bought. */
@Composable
fun PlansScreen(
    state: AccessState,
    onBuy: (Offer) -> Unit,
    onReload: () -> Unit,
    onRestore: () -> Unit,
    onClose: () -> Unit,
    notice: @Composable () -> Unit,
) {
    val strings = LocalStrings.current
    ScreenColumn {
        Hero(onClose)
        notice()
        when (val offers = state.offers) {
            Offers.Loading -> Loading()
            Offers.Unavailable -> Unavailable(onReload)
            is Offers.Ready -> Choice(state, offers.list, onBuy)
        }
        TextButton(onClick = onRestore, enabled = !state.busy, modifier = Modifier.align(Alignment.CenterHorizontally)) {
            Text(strings.restorePurchases)
        }
        Column(verticalArrangement = Arrangement.spacedBy(10.dp)) {
            Promise(Icons.phone, strings.devices)
            Promise(Icons.cloudOff, strings.offline)
            Promise(Icons.shield, strings.privacy)
        }
    }
}

@Composable
private fun Hero(onClose: () -> Unit) {
    val strings = LocalStrings.current
    val scheme = MaterialTheme.colorScheme
    Surface(shape = MaterialTheme.shapes.large, contentColor = scheme.onPrimaryContainer) {
        Box(Modifier.fillMaxWidth().background(Brush.linearGradient(listOf(scheme.primaryContainer, scheme.tertiaryContainer)))) {
            Column(
                Modifier.fillMaxWidth().padding(horizontal = 24.dp, vertical = 20.dp),
                horizontalAlignment = Alignment.CenterHorizontally,
                verticalArrangement = Arrangement.spacedBy(8.dp),
            ) {
                Box(Modifier.size(64.dp).clip(CircleShape).background(scheme.primary), contentAlignment = Alignment.Center) {
                    Icon(Icons.lockOpen, contentDescription = null, modifier = Modifier.size(32.dp), tint = scheme.onPrimary)
                }
                Text(
                    strings.plansTitle,
                    Modifier.semantics { heading() },
                    style = MaterialTheme.typography.headlineSmall,
                    textAlign = TextAlign.Center,
                )
                Text(strings.plansText, style = MaterialTheme.typography.bodyMedium, textAlign = TextAlign.Center)
            }
            IconButton(onClick = onClose, modifier = Modifier.align(Alignment.TopEnd).padding(4.dp)) {
                Icon(Icons.close, contentDescription = strings.close)
            }
        }
    }
}

@Composable
private fun Loading() {
    val strings = LocalStrings.current
    Box(Modifier.fillMaxWidth().padding(24.dp), contentAlignment = Alignment.Center) {
        CircularProgressIndicator(Modifier.semantics { contentDescription = strings.loadingPlans })
    }
}

@Composable
private fun Unavailable(onReload: () -> Unit) {
    val strings = LocalStrings.current
    Column(
        Modifier.fillMaxWidth(),
        horizontalAlignment = Alignment.CenterHorizontally,
        verticalArrangement = Arrangement.spacedBy(8.dp),
    ) {
        Text(strings.shopUnavailable, textAlign = TextAlign.Center)
        FilledTonalButton(onClick = onReload) { Text(strings.tryAgain) }
    }
}

/** What the license opens already cannot be bought again. The highest plan is chosen at first. */
@Composable
private fun Choice(
    state: AccessState,
    offers: List<Offer>,
    onBuy: (Offer) -> Unit,
) {
    val strings = LocalStrings.current
    val forSale = offers.filter { state.tiers.indexOf(it.tier) > state.place }
    var wanted by rememberSaveable { mutableStateOf<String?>(null) }
    val chosen = forSale.find { it.tier == wanted } ?: forSale.lastOrNull()
    Column(Modifier.selectableGroup(), verticalArrangement = Arrangement.spacedBy(10.dp)) {
        state.tiers.forEachIndexed { place, tier ->
            val offer = forSale.find { it.tier == tier }
            if (offer != null || place <= state.place) {
                Plan(
                    tier = tier,
                    price = offer?.price ?: if (place == state.place) strings.current else "",
                    chosen = offer != null && offer == chosen,
                    onChoose = { wanted = tier }.takeIf { offer != null },
                )
            }
        }
    }
    if (chosen != null) {
        Button(onClick = { onBuy(chosen) }, enabled = !state.busy, modifier = Modifier.fillMaxWidth()) {
            Text(strings.buy(strings.tierName(chosen.tier), chosen.price), Modifier.padding(vertical = 4.dp), textAlign = TextAlign.Center)
        }
    }
}

@Composable
private fun Plan(
    tier: String,
    price: String,
    chosen: Boolean,
    onChoose: (() -> Unit)?,
) {
    val strings = LocalStrings.current
    val scheme = MaterialTheme.colorScheme
    val choosing =
        if (onChoose == null) {
            Modifier.semantics(mergeDescendants = true) {}
        } else {
            Modifier.selectable(chosen, role = Role.RadioButton, onClick = onChoose)
        }
    Surface(
        Modifier.fillMaxWidth().clip(MaterialTheme.shapes.medium).then(choosing),
        shape = MaterialTheme.shapes.medium,
        color = if (chosen) scheme.primaryContainer else scheme.surfaceContainer,
        border = BorderStroke(if (chosen) 2.dp else 1.dp, if (chosen) scheme.primary else scheme.outlineVariant),
    ) {
        Row(
            Modifier.padding(horizontal = 16.dp, vertical = 12.dp),
            horizontalArrangement = Arrangement.spacedBy(12.dp),
            verticalAlignment = Alignment.CenterVertically,
        ) {
            if (onChoose == null) {
                Icon(Icons.check, contentDescription = null, tint = scheme.tertiary)
            } else {
                RadioButton(selected = chosen, onClick = null)
            }
            Column(Modifier.weight(1f)) {
                Text(strings.tierName(tier), style = MaterialTheme.typography.titleMedium)
                Text(strings.tierText(tier), style = MaterialTheme.typography.bodySmall)
            }
            Text(price, style = MaterialTheme.typography.titleMedium)
        }
    }
}

@Composable
private fun Promise(
    icon: ImageVector,
    text: String,
) {
    Row(horizontalArrangement = Arrangement.spacedBy(12.dp), verticalAlignment = Alignment.CenterVertically) {
        Icon(icon, contentDescription = null, modifier = Modifier.size(20.dp), tint = MaterialTheme.colorScheme.primary)
        Text(text, style = MaterialTheme.typography.bodySmall)
    }
}
