import DemoCore
import SwiftUI

/// What a version of the model says.
struct AnswerSection: View {
    let version: ModelVersion
    let answer: GalleryModel.Answer?
    let isRight: Bool?

    var body: some View {
        Section {
            switch answer {
            case .predictions(let predictions): ForEach(predictions) { PredictionRow(prediction: $0) }
            case .failed(let message): Text(message).foregroundStyle(.red)
            case .working, nil: ProgressView().frame(maxWidth: .infinity)
            }
        } header: {
            HStack {
                Text(version.name)
                Spacer()
                if let isRight { VerdictLabel(isRight: isRight) }
            }
        }
        .accessibilityIdentifier("answer.\(version.rawValue)")
    }
}

private struct VerdictLabel: View {
    let isRight: Bool

    var body: some View {
        Label(isRight ? "Right" : "Wrong", systemImage: isRight ? "checkmark.circle.fill" : "xmark.circle.fill")
            .foregroundStyle(isRight ? Color.green : Color.red)
    }
}

private struct PredictionRow: View {
    let prediction: Prediction

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            HStack {
                Text(prediction.garment.name)
                Spacer()
                Text(verbatim: share).monospacedDigit().foregroundStyle(.secondary)
            }
            ProgressView(value: prediction.probability).accessibilityHidden(true)
        }
        .accessibilityElement(children: .combine)
    }

    private var share: String { Formats().percent(prediction.probability) }
}
