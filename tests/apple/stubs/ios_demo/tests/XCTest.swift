@_exported import Foundation

// XCTest as Xcode has it, with the part that drives an app (XCUIAutomation).

open class XCTestCase: NSObject {
    open var continueAfterFailure: Bool {
        get { true }
        set {}
    }
}
public func XCTAssertTrue(
    _ expression: @autoclosure () throws -> Bool, _ message: @autoclosure () -> String = "", file: StaticString = #filePath,
    line: UInt = #line
) {}
public func XCTSkipUnless(
    _ expression: @autoclosure () throws -> Bool, _ message: @autoclosure () -> String? = nil, file: StaticString = #filePath,
    line: UInt = #line
) throws {}

public struct XCUIAccessibilityAuditType: OptionSet, Sendable {
    public let rawValue: UInt
    public init(rawValue: UInt) { self.rawValue = rawValue }
    public static let sufficientElementDescription = XCUIAccessibilityAuditType(rawValue: 1)
    public static let trait = XCUIAccessibilityAuditType(rawValue: 2)
}

@MainActor
public protocol XCUIElementTypeQueryProvider {
    var buttons: XCUIElementQuery { get }
    var tabBars: XCUIElementQuery { get }
    var segmentedControls: XCUIElementQuery { get }
    var firstMatch: XCUIElement { get }
}
extension XCUIElementTypeQueryProvider {
    public var buttons: XCUIElementQuery { fatalError() }
    public var tabBars: XCUIElementQuery { fatalError() }
    public var segmentedControls: XCUIElementQuery { fatalError() }
    public var firstMatch: XCUIElement { fatalError() }
}

@MainActor
open class XCUIElement: NSObject, XCUIElementTypeQueryProvider {
    public override nonisolated init() { super.init() }
    public enum ElementType: UInt, Sendable { case any }
    open var isSelected: Bool { false }
    open var label: String { "" }
    open func waitForExistence(timeout: TimeInterval) -> Bool { false }
    open func tap() {}
    open func descendants(matching type: ElementType) -> XCUIElementQuery { fatalError() }
}
@MainActor
open class XCUIElementQuery: NSObject, XCUIElementTypeQueryProvider {
    open subscript(key: String) -> XCUIElement { fatalError() }
}
@MainActor
open class XCUIApplication: XCUIElement {
    public override nonisolated init() { super.init() }
    open var launchArguments: [String] {
        get { [] }
        set {}
    }
    open func launch() {}
    open func performAccessibilityAudit(for auditTypes: XCUIAccessibilityAuditType) throws {}
}
