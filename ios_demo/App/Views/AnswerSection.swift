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
            case .predictions(let predictions): ForEach(predictions) { PredictionRow(version: version, prediction: $0) }
            case .failed(let message): Text(message).foregroundStyle(.red)
            case .working, nil: ProgressView().frame(maxWidth: .infinity)
            }
        } header: {
            HStack {
                Text(version.name)
                Spacer()
                if let isRight {
                    VerdictLabel(isRight: isRight).accessibilityIdentifier("verdict.\(version.rawValue).\(isRight ? "right" : "wrong")")
                }
            }
        }
    }
}

private struct VerdictLabel: View {
    let isRight: Bool

    var body: some View {
        if isRight {
            Label("Right", systemImage: "checkmark.circle.fill").foregroundStyle(.green)
        } else {
            Label("Wrong", systemImage: "xmark.circle.fill").foregroundStyle(.red)
        }
    }
}

private struct PredictionRow: View {
    let version: ModelVersion
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
        .accessibilityIdentifier("prediction.\(version.rawValue)")
    }

    private var share: String { Formats().percent(prediction.probability) }
}
