package org.corelocker.demo.screens

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.material3.AlertDialog
import androidx.compose.material3.Button
import androidx.compose.material3.HorizontalDivider
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.corelocker.core.LockState
import org.corelocker.demo.model.LicenseDetails
import org.corelocker.demo.ui.Heading
import org.corelocker.demo.ui.Panel
import org.corelocker.demo.ui.ScreenColumn
import org.corelocker.demo.words.LocalStrings
import org.corelocker.demo.words.Strings

/** The license in detail, and what can be done with it. */
@Composable
fun AccessScreen(
    state: AccessState,
    actions: AccessActions,
    notice: @Composable () -> Unit,
) {
    val strings = LocalStrings.current
    var removing by rememberSaveable { mutableStateOf(false) }
    ScreenColumn {
        notice()
        Panel {
            Heading(strings.license)
            state.license?.let { Details(it) } ?: Text(strings.noLicense, style = MaterialTheme.typography.bodyMedium)
        }
        Buttons(state, actions, onRemove = { removing = true })
    }
    if (removing) {
        ConfirmRemoval(
            onDismiss = { removing = false },
            onConfirm = {
                removing = false
                actions.onForget()
            },
        )
    }
}

/** What helps most is the filled one. */
@Composable
private fun Buttons(
    state: AccessState,
    actions: AccessActions,
    onRemove: () -> Unit,
) {
    val strings = LocalStrings.current
    val wide = Modifier.fillMaxWidth()
    val expired = state.lock == LockState.Expired
    Column(wide, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        if (expired) Button(onClick = actions.onRenew, enabled = !state.busy, modifier = wide) { Text(strings.renewNow) }
        if (state.place < state.tiers.lastIndex) {
            if (expired) {
                OutlinedButton(onClick = actions.onPlans, modifier = wide) { Text(strings.plans) }
            } else {
                Button(onClick = actions.onPlans, modifier = wide) { Text(strings.plans) }
            }
        }
        OutlinedButton(onClick = actions.onRestore, enabled = !state.busy, modifier = wide) { Text(strings.restorePurchases) }
        if (state.license != null) {
            OutlinedButton(onClick = actions.onRenew, enabled = !state.busy, modifier = wide) { Text(strings.renewNow) }
            TextButton(onClick = onRemove, enabled = !state.busy, modifier = Modifier.align(Alignment.CenterHorizontally)) {
                Text(strings.remove, color = MaterialTheme.colorScheme.error)
            }
        }
    }
}

/** What the screens about plans and license ask for. */
class AccessActions(
    val onPlans: () -> Unit = {},
    val onRestore: () -> Unit = {},
    val onRenew: () -> Unit = {},
    val onForget: () -> Unit = {},
)

@Composable
private fun Details(license: LicenseDetails) {
    val strings = LocalStrings.current
    SelectionContainer {
        Column(verticalArrangement = Arrangement.spacedBy(10.dp)) {
            strings.details(license).forEachIndexed { place, (name, value) ->
                if (place > 0) HorizontalDivider(color = MaterialTheme.colorScheme.outlineVariant)
                Column(Modifier.semantics(mergeDescendants = true) {}) {
                    Text(name, style = MaterialTheme.typography.labelMedium, color = MaterialTheme.colorScheme.onSurfaceVariant)
                    Text(value, style = MaterialTheme.typography.bodyMedium)
                }
            }
        }
    }
}

private fun Strings.details(license: LicenseDetails) =
    listOf(
        tier to tierName(license.tier),
        issued to date(license.issuedAt),
        ends to (license.expiresAt?.let(::date) ?: never),
        renewsAfter to (license.renewAt?.let(::date) ?: never),
        modelVersion to license.modelVersion.toString(),
        environment to if (license.development) development else production,
        app to license.app,
        deviceKey to license.device,
        licenseId to license.id,
    )

/** Asks before the license goes. */
@Composable
fun ConfirmRemoval(
    onDismiss: () -> Unit,
    onConfirm: () -> Unit,
) {
    val strings = LocalStrings.current
    AlertDialog(
        onDismissRequest = onDismiss,
        title = { Text(strings.removeTitle) },
        text = { Text(strings.removeText) },
        confirmButton = { TextButton(onClick = onConfirm) { Text(strings.removeNow, color = MaterialTheme.colorScheme.error) } },
        dismissButton = { TextButton(onClick = onDismiss) { Text(strings.cancel) } },
    )
}
