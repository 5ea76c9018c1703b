import Foundation

#if canImport(Darwin)
    import Darwin
#endif

/// A reading of a device's clocks.
///
/// ```swift
/// let reading = ClockReading(wall: 1_800_000_000, ticks: 3_600, boot: "5f0c")
/// ```
public struct ClockReading: Sendable, Equatable {
    /// The clock that its owner can set, Unix seconds.
    public let wall: Int64
    /// Seconds of a clock that runs on through sleep and starts anew with the device.
    public let ticks: Int64
    /// Names the start-up that `ticks` counts from.
    public let boot: String

    /// A reading; the members say what each clock is.
    public init(wall: Int64, ticks: Int64, boot: String) {
        (self.wall, self.ticks, self.boot) = (wall, ticks, boot)
    }
}

/// The latest time that was seen (Unix seconds), and the other clock's reading then.
///
/// ```swift
/// try store.save(ClockMark(time: 1_800_000_000, ticks: 3_600, boot: "5f0c"))
/// ```
public struct ClockMark: Sendable, Equatable {
    /// Unix seconds.
    public let time: Int64
    /// As in ``ClockReading``.
    public let ticks: Int64
    /// As in ``ClockReading``.
    public let boot: String

    /// A mark; the members say what each is.
    public init(time: Int64, ticks: Int64, boot: String) {
        (self.time, self.ticks, self.boot) = (time, ticks, boot)
    }

    package var json: Data {
        (try? CanonicalJSON.encode(.object(["time": .integer(time), "ticks": .integer(ticks), "boot": .text(boot)])))
            ?? Data()
    }

    /// Throws `licenseClock` when the record is damaged.
    package init(json data: Data) throws(CoreLockerError) {
        let fields = try Fields(data, "the record of the time", .licenseClock)
        guard let time = fields.members["time"]?.integer, let ticks = fields.members["ticks"]?.integer,
            let boot = fields.members["boot"]?.text
        else { throw fields.refusal("damaged; unlock again") }
        self.init(time: time, ticks: ticks, boot: boot)
    }
}

/// The time as far as an offline device can know it. Its owner can set the wall clock, so a mark that never falls is kept.
struct DeviceClock: Sendable {
    /// Seconds that the wall clock may be behind the mark: a traveler who sets the hour by hand.
    private static let tolerance: Int64 = 86_400

    let store: any LicenseStore
    let read: @Sendable () -> ClockReading

    /// The time to judge the license by. Moves the mark, and keeps it before anything is decided.
    ///
    /// The wall clock moves the mark no further than to the end of the license: a clock that was wrong by years makes this license
    /// end, and the next one works again. Throws `licenseClock`.
    func now(for license: License, offlineGrace: Int64) throws -> Int64 {
        let reading = read()
        var seen = license.issuedAt
        if let mark = try store.mark() {
            let up = reading.boot == mark.boot ? reading.ticks - mark.ticks : 0
            seen = max(seen, mark.time + max(up, 0))
        }
        let now = max(seen, reading.wall)
        let end = license.expiresAt.map { $0 + offlineGrace } ?? license.issuedAt
        try store.save(ClockMark(time: max(seen, min(now, end)), ticks: reading.ticks, boot: reading.boot))
        if license.expiresAt != nil, reading.wall < seen - Self.tolerance {
            throw CoreLockerError(.licenseClock, "The clock of this device is behind")
        }
        return now
    }

    /// The clocks of this system.
    @Sendable static func systemReading() -> ClockReading {
        var time = timespec()
        #if canImport(Darwin)
            clock_gettime(CLOCK_MONOTONIC_RAW, &time)
            let boot = bootSession()
        #else
            clock_gettime(CLOCK_BOOTTIME, &time)
            let boot = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .ascii)
        #endif
        // Where start-ups have no name, the wall clock alone moves the mark.
        return ClockReading(
            wall: Int64(Date().timeIntervalSince1970), ticks: Int64(time.tv_sec),
            boot: boot?.trimmingCharacters(in: .whitespacesAndNewlines) ?? UUID().uuidString)
    }

    #if canImport(Darwin)
        private static func bootSession() -> String? {
            var size = 0
            guard sysctlbyname("kern.bootsessionuuid", nil, &size, nil, 0) == 0 else { return nil }
            var bytes = [UInt8](repeating: 0, count: size)
            guard sysctlbyname("kern.bootsessionuuid", &bytes, &size, nil, 0) == 0 else { return nil }
            return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    #endif
}
