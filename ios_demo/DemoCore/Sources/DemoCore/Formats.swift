import Foundation

/// Numbers and dates as the user writes them.
public struct Formats: Sendable {
    private let locale: Locale
    private let timeZone: TimeZone

    public init(locale: Locale = .current, timeZone: TimeZone = .current) { (self.locale, self.timeZone) = (locale, timeZone) }

    /// As in 92.1 %.
    public func percent(_ share: Double) -> String {
        share.formatted(.percent.precision(.fractionLength(1)).locale(locale))
    }

    /// Milliseconds with two digits after the point; the unit stands in the message around it.
    public func milliseconds(_ duration: Duration) -> String {
        (duration / .milliseconds(1)).formatted(.number.precision(.fractionLength(2)).locale(locale))
    }

    /// Day and time, to the minute.
    public func date(_ date: Date) -> String {
        date.formatted(
            Date.FormatStyle(date: .abbreviated, time: .shortened, locale: locale, calendar: calendar, timeZone: timeZone))
    }

    private var calendar: Calendar {
        var calendar = Calendar(identifier: .gregorian)
        (calendar.locale, calendar.timeZone) = (locale, timeZone)
        return calendar
    }
}
