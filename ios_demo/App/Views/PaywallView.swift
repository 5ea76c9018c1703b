import DemoCore
import SwiftUI

/// The tiers and their prices.
struct PaywallView: View {
    let paywall: PaywallModel
    @Environment(\.dismiss) private var dismiss

    var body: some View {
        NavigationStack {
            List {
                Section { Text("The model is in the app already. A purchase brings the key to it, for this device.") }
                OfferSection(paywall: paywall)
                Section {
                    Button("Restore purchases") { Task { await paywall.restore() } }.disabled(paywall.isBusy)
                } footer: {
                    if let notice = paywall.notice { Text(notice).accessibilityIdentifier("paywall.notice") }
                }
            }
            .navigationTitle("Unlock the model")
            .toolbar {
                ToolbarItem(placement: .cancellationAction) { Button("Close") { dismiss() } }
            }
        }
        .interactiveDismissDisabled(paywall.isBusy)
        .task { await paywall.load() }
        .onChange(of: paywall.isDone) { if paywall.isDone { dismiss() } }
    }
}

private struct OfferSection: View {
    let paywall: PaywallModel

    var body: some View {
        Section("Tiers") {
            switch paywall.phase {
            case .loading: ProgressView().frame(maxWidth: .infinity)
            case .failed(let message):
                Text(message).foregroundStyle(.secondary)
                Button("Try again") { Task { await paywall.load() } }
            case .ready:
                ForEach(paywall.offers) { offer in
                    OfferRow(offer: offer, standing: paywall.standing(offer)) { Task { await paywall.buy(offer) } }
                }
            }
        }
    }
}

private struct OfferRow: View {
    let offer: Offer
    let standing: PaywallModel.Standing
    let buy: @MainActor () -> Void

    var body: some View {
        AdaptiveStack {
            VStack(alignment: .leading, spacing: 4) {
                Text(verbatim: offer.name).font(.headline)
                Text(verbatim: offer.description).font(.subheadline).foregroundStyle(.secondary)
                if offer.isSubscription { Text("Every month, until cancelled").font(.caption).foregroundStyle(.secondary) }
            }
            Spacer(minLength: 0)
            button
        }
    }

    @ViewBuilder private var button: some View {
        switch standing {
        case .included: Label("Included", systemImage: "checkmark.circle.fill").labelStyle(.iconOnly).foregroundStyle(.green)
        case .buying: ProgressView().accessibilityLabel(Text("Buying…"))
        case .buyable, .waiting:
            Button(action: buy) { Text(verbatim: offer.price).bold() }
                .buttonStyle(.borderedProminent)
                .disabled(standing == .waiting)
                .accessibilityLabel(Text(Message("Buy %@ for %@", .text(offer.name), .text(offer.price))))
                .accessibilityIdentifier("buy.\(offer.id)")
        }
    }
}
