import SwiftUI

public protocol Plottable {}
extension String: Plottable {}
extension Double: Plottable {}
public struct PlottableValue<Value: Plottable> {
    public static func value(_ labelKey: LocalizedStringKey, _ value: Value) -> PlottableValue<Value> { fatalError() }
    @_disfavoredOverload public static func value<S: StringProtocol>(_ label: S, _ value: Value) -> PlottableValue<Value> { fatalError() }
}

@MainActor @preconcurrency
public protocol ChartContent {}
@resultBuilder
public enum ChartContentBuilder { public static func buildBlock<Content: ChartContent>(_ content: Content) -> Content { content } }
public struct BarMark: ChartContent {
    nonisolated public init<X: Plottable, Y: Plottable>(x: PlottableValue<X>, y: PlottableValue<Y>) {}
}
public struct AnnotationPosition: Sendable { public static let top = AnnotationPosition() }
extension ChartContent {
    nonisolated public func foregroundStyle<D: Plottable>(by value: PlottableValue<D>) -> some ChartContent { self }
    nonisolated public func position<P: Plottable>(by value: PlottableValue<P>) -> some ChartContent { self }
    nonisolated public func annotation<C: View>(position: AnnotationPosition, @ViewBuilder content: () -> C) -> some ChartContent { self }
    nonisolated public func accessibilityLabel(_ label: Text) -> some ChartContent { self }
    nonisolated public func accessibilityValue(_ value: Text) -> some ChartContent { self }
}
public struct Chart<Content: ChartContent>: View {
    public init<Data: RandomAccessCollection, C: ChartContent>(
        _ data: Data, @ChartContentBuilder content: @escaping (Data.Element) -> C
    ) where Content == ChartForEach<Data, C>, Data.Element: Identifiable {}
    public var body: Never { fatalError() }
}
public struct ChartForEach<Data, Content>: ChartContent {}

public protocol ScaleDomain {}
extension Array: ScaleDomain where Element: Plottable {}
extension ClosedRange: ScaleDomain where Bound: Plottable {}
extension View {
    public func chartForegroundStyleScale<Domain: ScaleDomain, Style: ShapeStyle>(domain: Domain, range: [Style]) -> some View { self }
    public func chartYScale<Domain: ScaleDomain>(domain: Domain) -> some View { self }
    public func chartYAxisLabel<S: StringProtocol>(_ label: S) -> some View { self }
}
