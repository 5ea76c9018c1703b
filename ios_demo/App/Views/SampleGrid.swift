import DemoCore
import SwiftUI

/// One picture of each class, to be chosen.
struct SampleGrid: View {
    let gallery: GalleryModel

    var body: some View {
        LazyVGrid(columns: [GridItem(.adaptive(minimum: 56), spacing: 8)], spacing: 8) {
            ForEach(gallery.samples) { sample in
                SampleButton(sample: sample, isChosen: gallery.subject == .sample(sample)) { gallery.show(sample) }
            }
        }
        .padding(.vertical, 4)
    }
}

private struct SampleButton: View {
    let sample: LabelledImage
    let isChosen: Bool
    let choose: @MainActor () -> Void

    var body: some View {
        Button(action: choose) {
            PictureView(image: sample.image)
                .overlay {
                    RoundedRectangle(cornerRadius: 8).strokeBorder(isChosen ? Color.accentColor : Color.clear, lineWidth: 3)
                }
        }
        // In a list, buttons of another style all answer to one tap.
        .buttonStyle(.plain)
        .accessibilityLabel(Text(sample.garment.name))
        .accessibilityAddTraits(isChosen ? .isSelected : [])
        .accessibilityIdentifier("sample.\(sample.garment)")
    }
}

/// 28 x 28 pixels, unsmoothed.
struct PictureView: View {
    let image: GrayImage

    var body: some View {
        if let picture = image.cgImage {
            Image(decorative: picture, scale: 1)
                .interpolation(.none)
                .resizable()
                .aspectRatio(1, contentMode: .fit)
                .clipShape(RoundedRectangle(cornerRadius: 8))
        }
    }
}
