import SwiftUI

/// Of CoreTransferable.
public protocol Transferable {}
extension Data: Transferable {}

/// Of Photos.
public struct PHPickerFilter: Sendable { public static let images = PHPickerFilter() }

public struct PhotosPickerItem: Hashable, Sendable {
    public func loadTransferable<T: Transferable>(type: T.Type) async throws -> T? { nil }
}
public struct PhotosPicker<Label: View>: View {
    public init(selection: Binding<PhotosPickerItem?>, matching filter: PHPickerFilter? = nil, @ViewBuilder label: () -> Label) {}
    public var body: Never { fatalError() }
}
