import DemoCore
import PhotosUI
import SwiftUI

/// A picture, and what the model makes of it before and after it was unlocked.
struct GalleryView: View {
    let model: DemoModel
    @Bindable var gallery: GalleryModel
    @State private var pickedItem: PhotosPickerItem?

    var body: some View {
        NavigationStack {
            List {
                StateSection(model: model)
                Section {
                    SampleGrid(gallery: gallery)
                    PhotosPicker(selection: $pickedItem, matching: .images) {
                        Label("Choose a photo", systemImage: "photo.on.rectangle")
                    }
                } header: {
                    Text("Picture")
                } footer: {
                    if let failure = gallery.failure { Text(failure) }
                }
                Section {
                    SubjectRow(subject: gallery.subject)
                    RuntimePicker(runtime: $gallery.runtime)
                }
                ForEach(gallery.versions) { version in
                    AnswerSection(version: version, answer: gallery.answers[version], isRight: gallery.isRight(version))
                }
            }
            .navigationTitle("Garments")
        }
        .task(id: gallery.question) { await gallery.classify() }
        .task(id: pickedItem) { await open(pickedItem) }
    }

    private func open(_ item: PhotosPickerItem?) async {
        guard let item else { return }
        let data = try? await item.loadTransferable(type: Data.self)
        let photo: GrayImage? = if let data { await PhotoReader.read(data) } else { nil }
        guard !Task.isCancelled else { return }
        gallery.show(photo: photo)
        // Else the photo would come back with this screen.
        pickedItem = nil
    }
}

/// The picture that is asked about, large.
private struct SubjectRow: View {
    let subject: GalleryModel.Subject?

    var body: some View {
        AdaptiveStack {
            if let subject {
                PictureView(image: subject.image).frame(width: 96, height: 96)
                switch subject {
                case .sample(let sample): LabeledContent("True class") { Text(sample.garment.name) }
                case .photo: Text("Your photo, as the model sees it").foregroundStyle(.secondary)
                }
            }
        }
        .accessibilityElement(children: .combine)
    }
}

/// Which runtime runs the model.
struct RuntimePicker: View {
    @Binding var runtime: ModelRuntime

    var body: some View {
        Picker("Runtime", selection: $runtime) {
            ForEach(ModelRuntime.allCases) { runtime in Text(runtime.name).tag(runtime) }
        }
        .pickerStyle(.segmented)
        .accessibilityIdentifier("runtime")
    }
}
