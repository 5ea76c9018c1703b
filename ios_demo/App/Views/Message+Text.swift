import DemoCore
import SwiftUI

extension Message {
    /// The sentence in the user's language, out of `Localizable.xcstrings`.
    var text: String {
        let format = Bundle.main.localizedString(forKey: key, value: nil, table: nil)
        return arguments.isEmpty ? format : String(format: format, locale: .current, arguments: arguments.map(\.value))
    }
}

extension Message.Argument {
    fileprivate var value: any CVarArg {
        switch self {
        case .text(let text): NSString(string: text)
        case .number(let number): number
        }
    }
}

extension Text {
    init(_ message: Message) { self.init(verbatim: message.text) }
}
