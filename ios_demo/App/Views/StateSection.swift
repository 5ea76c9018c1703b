import CoreLocker
import DemoCore
import SwiftUI

/// The state of the license and what to do about it, at the top of each screen.
struct StateSection: View {
    let model: DemoModel

    var body: some View {
        Section {
            StateCard(description: model.license.description)
            if let action = model.license.description.action {
                Button {
                    Task { await model.perform(action) }
                } label: {
                    Text(action.title)
                }
                .disabled(model.license.isBusy || model.paywall.isBusy)
                .accessibilityIdentifier("state.action")
            }
        } footer: {
            if let notice = model.license.failure ?? model.paywall.notice { Text(notice) }
        }
    }
}

/// A state in words.
struct StateCard: View {
    let description: StateDescription

    var body: some View {
        Label {
            VStack(alignment: .leading, spacing: 4) {
                Text(description.title).font(.headline)
                Text(description.advice).font(.subheadline).foregroundStyle(.secondary)
            }
        } icon: {
            if description.tone == .working {
                ProgressView()
            } else {
                Image(systemName: description.symbol).foregroundStyle(description.tone.color)
            }
        }
        .accessibilityElement(children: .combine)
        .accessibilityIdentifier("state")
    }
}

extension StateDescription.Tone {
    var color: Color {
        switch self {
        case .neutral, .working: .secondary
        case .good: .green
        case .warning: .orange
        case .bad: .red
        }
    }
}

struct StateCard_Previews: PreviewProvider {
    private static let states: [UnlockState] = [
        .locked, .unlocking, .unlocked(tier: "full", until: nil), .unlocked(tier: "plus", until: .now), .offline(until: .now), .expired,
        .revoked,
        .refused(.deviceLimit),
    ]

    static var previews: some View {
        List(states.indices, id: \.self) { StateCard(description: StateDescription(states[$0])) }
    }
}
