import Accessibility
import DemoCore
import SwiftUI

/// The app's tabs. It follows the license as long as it is there.
struct RootView: View {
    @Bindable var model: DemoModel
    @Environment(\.scenePhase) private var scenePhase

    var body: some View {
        TabView {
            GalleryView(model: model, gallery: model.gallery)
                .tabItem { Label("Classify", systemImage: "tshirt") }
            ComparisonView(model: model, comparison: model.comparison)
                .tabItem { Label("Compare", systemImage: "chart.bar") }
            LicenseView(model: model)
                .tabItem { Label("License", systemImage: "key") }
        }
        .task { await model.run() }
        .task(id: scenePhase) {
            if scenePhase == .active { await model.license.renewIfDue() }
        }
        .onChange(of: model.license.description.title) {
            AccessibilityNotification.Announcement(model.license.description.title.text).post()
        }
        .sheet(isPresented: $model.isPaywallShown) { PaywallView(paywall: model.paywall) }
    }
}

/// What is wrong with the app itself.
struct LaunchFailureView: View {
    let message: Message

    var body: some View {
        ContentUnavailableView {
            Label("The app cannot start", systemImage: "exclamationmark.triangle")
        } description: {
            Text(message)
        }
    }
}
