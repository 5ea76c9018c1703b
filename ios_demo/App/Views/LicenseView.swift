import DemoCore
import SwiftUI

/// The license on this device, and what can be done with it.
struct LicenseView: View {
    let model: DemoModel
    @State private var isRemovalAsked = false

    var body: some View {
        NavigationStack {
            List {
                StateSection(model: model)
                if let details = model.license.details { DetailSection(details: details) }
                actions
                AboutSection()
            }
            .navigationTitle("License")
            .confirmationDialog("Remove the license from this device?", isPresented: $isRemovalAsked, titleVisibility: .visible) {
                Button("Remove", role: .destructive) { Task { await model.license.forget() } }
            } message: {
                Text("The purchase stays. Restore purchases to unlock again.")
            }
        }
    }

    private var actions: some View {
        Section {
            Button("See the tiers") { model.isPaywallShown = true }
            Button("Restore purchases") { Task { await model.paywall.restore() } }
            if model.license.details != nil {
                Button("Renew now") { Task { await model.license.renew() } }
                Button("Remove from this device", role: .destructive) { isRemovalAsked = true }
            }
        }
        .disabled(model.license.isBusy || model.paywall.isBusy)
    }
}

private struct DetailSection: View {
    let details: LicenseDetails

    var body: some View {
        Section("Details") {
            ForEach(details.lines()) { line in
                LabeledContent {
                    Text(verbatim: line.value).textSelection(.enabled)
                } label: {
                    Text(line.label)
                }
                .accessibilityElement(children: .combine)
                .accessibilityIdentifier("license.line")
            }
        }
    }
}

private struct AboutSection: View {
    var body: some View {
        Section("About") {
            Text("The pictures are a few of Fashion-MNIST (Zalando SE, MIT licence). The network was trained for this demo.")
                .font(.footnote)
                .foregroundStyle(.secondary)
        }
    }
}
