/// A sentence for the user: a key of the string catalog, and what stands in the places of its format specifiers.
public struct Message: Hashable, Sendable {
    public enum Argument: Hashable, Sendable {
        /// For `%@`.
        case text(String)
        /// For `%lld`.
        case number(Int)
    }

    public let key: String
    public let arguments: [Argument]

    public init(_ key: String, _ arguments: Argument...) {
        self.key = key
        self.arguments = arguments
    }
}
