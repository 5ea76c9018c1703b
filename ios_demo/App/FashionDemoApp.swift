import DemoCore
import SwiftUI

/// Classifies garments with a model that ships locked.
@main
struct FashionDemoApp: App {
    @State private var launch = Launch()

    var body: some Scene {
        WindowGroup {
            switch launch.outcome {
            case .ready(let model): RootView(model: model)
            case .failed(let message): LaunchFailureView(message: message)
            }
        }
    }
}
