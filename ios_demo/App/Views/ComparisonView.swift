import Charts
import DemoCore
import SwiftUI

/// Accuracy and latency, locked beside unlocked, measured here and now.
struct ComparisonView: View {
    let model: DemoModel
    @Bindable var comparison: ComparisonModel

    var body: some View {
        NavigationStack {
            List {
                StateSection(model: model)
                Section {
                    RuntimePicker(runtime: $comparison.runtime).disabled(comparison.isMeasuring)
                    MeasureRow(comparison: comparison)
                } footer: {
                    MeasureFooter(comparison: comparison)
                }
                if !comparison.accuracies.isEmpty {
                    Section("Accuracy") { BarChart(bars: comparison.accuracies, unit: Message("Percent"), top: 100) }
                    Section {
                        BarChart(bars: comparison.latencies, unit: Message("Milliseconds"), top: nil).accessibilityIdentifier(
                            "chart.latency")
                    } header: {
                        Text("Time of one picture")
                    } footer: {
                        Text("Core ML computes slower from memory than from a file; ExecuTorch does not.")
                    }
                }
            }
            .navigationTitle("Compare")
        }
    }
}

/// The button, or how far the measurement is.
private struct MeasureRow: View {
    let comparison: ComparisonModel

    var body: some View {
        if case .measuring(let share) = comparison.phase {
            HStack {
                ProgressView(value: share) { Text("Measuring…") }
                Button("Cancel") { comparison.cancel() }.buttonStyle(.borderless)
            }
        } else {
            Button("Measure") { comparison.start() }.accessibilityIdentifier("measure")
        }
    }
}

private struct MeasureFooter: View {
    let comparison: ComparisonModel

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            Text(Message("On %lld bundled pictures, one after the other.", .number(comparison.pictureCount)))
            if !comparison.canCompare { Text("Unlock the model to compare.") }
            if case .failed(let message) = comparison.phase { Text(message).foregroundStyle(.red) }
        }
    }
}

/// Bars by runtime, a colour for each version.
private struct BarChart: View {
    let bars: [ComparisonModel.Bar]
    let unit: Message
    /// Top of the axis; nil for what fits.
    let top: Double?

    var body: some View {
        Chart(bars) { bar in
            BarMark(x: .value("Runtime", bar.runtime.name.text), y: .value(unit.text, bar.value))
                .foregroundStyle(by: .value("Version", bar.version.name.text))
                .position(by: .value("Version", bar.version.name.text))
                .annotation(position: .top) { Text(bar.text).font(.caption).foregroundStyle(.secondary) }
                .accessibilityLabel(Text(Message("%@, %@", .text(bar.runtime.name.text), .text(bar.version.name.text))))
                .accessibilityValue(Text(bar.text))
        }
        .chartForegroundStyleScale(domain: ModelVersion.allCases.map(\.name.text), range: [Color.gray, Color.accentColor])
        .chartYScale(domain: 0...(top ?? highest))
        .chartYAxisLabel(unit.text)
        .frame(minHeight: 240)
        .padding(.vertical, 8)
    }

    /// Room for the annotation of the highest bar.
    private var highest: Double { max(0.01, 1.15 * (bars.map(\.value).max() ?? 0)) }
}
