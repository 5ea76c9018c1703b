import StoreKitTest
import XCTest

/// Walks through the app in a simulator. The purchase needs the unlock service that the build has set up:
/// `corelocker service run --config ios_demo/.local/service/service.toml`; tell with UNLOCK_SERVICE=1 that it runs.
final class FashionDemoUITests: XCTestCase {
    private static let patience: TimeInterval = 30

    /// The store is there as long as its session.
    private var store: SKTestSession?

    @MainActor
    private func launch(language: String = "en") throws -> XCUIApplication {
        continueAfterFailure = false
        let store = try SKTestSession(configurationFileNamed: "Products")
        store.resetToDefaultState()
        store.clearTransactions()
        store.disableDialogs = true
        let app = XCUIApplication()
        app.launchArguments = ["--forget-licenses", "-AppleLanguages", "(\(language))"]
        app.launch()
        self.store = store
        return app
    }

    @MainActor
    private func see(_ element: XCUIElement, _ what: String) {
        XCTAssertTrue(element.waitForExistence(timeout: Self.patience), "\(what) does not show")
    }

    @MainActor
    private func element(_ identifier: String, in app: XCUIApplication) -> XCUIElement {
        app.descendants(matching: .any)[identifier].firstMatch
    }

    /// Waits until the state begins with the words.
    @MainActor
    private func seeState(_ words: String, in app: XCUIApplication) {
        let state = element("state", in: app)
        see(state, "the state")
        let end = Date().addingTimeInterval(Self.patience)
        while !state.label.hasPrefix(words), Date() < end { RunLoop.current.run(until: Date().addingTimeInterval(0.2)) }
        XCTAssertTrue(state.label.hasPrefix(words), "the state is \(state.label)")
    }

    @MainActor
    func testTheLockedModelClassifiesWithBothRuntimes() throws {
        let app = try launch()
        seeState("Locked", in: app)
        app.buttons["sample.sneaker"].tap()
        XCTAssertTrue(app.buttons["sample.sneaker"].isSelected)
        see(element("prediction.locked", in: app), "Core ML's answer")
        app.segmentedControls.buttons["ExecuTorch"].tap()
        see(element("prediction.locked", in: app), "ExecuTorch's answer")
    }

    @MainActor
    func testThePaywallShowsTheTiers() throws {
        let app = try launch()
        app.buttons["state.action"].tap()
        for product in ["plus", "full", "full.monthly"] { see(app.buttons["buy.com.example.fashion.\(product)"], product) }
        app.buttons["Close"].tap()
        seeState("Locked", in: app)
    }

    @MainActor
    func testMeasuresTheLockedModel() throws {
        let app = try launch()
        app.tabBars.buttons["Compare"].tap()
        app.buttons["measure"].tap()
        see(element("chart.latency", in: app), "the chart")
    }

    @MainActor
    func testAPurchaseUnlocks() throws {
        try XCTSkipUnless(ProcessInfo.processInfo.environment["UNLOCK_SERVICE"] == "1", "no unlock service")
        let app = try launch()
        app.buttons["sample.sneaker"].tap()
        app.buttons["state.action"].tap()
        let buy = app.buttons["buy.com.example.fashion.full"]
        see(buy, "the offer")
        buy.tap()
        seeState("Unlocked: full", in: app)
        see(element("prediction.unlocked", in: app), "the unlocked model's answer")
        see(element("verdict.unlocked.right", in: app), "a right answer")
        app.tabBars.buttons["License"].tap()
        see(element("license.line", in: app), "the license's details")
    }

    @MainActor
    func testSpeaksGerman() throws {
        let app = try launch(language: "de")
        seeState("Gesperrt", in: app)
    }

    @MainActor
    func testEveryScreenIsAccessible() throws {
        let app = try launch()
        for tab in ["Classify", "Compare", "License"] {
            app.tabBars.buttons[tab].tap()
            try app.performAccessibilityAudit(for: [.sufficientElementDescription, .trait])
        }
    }
}
