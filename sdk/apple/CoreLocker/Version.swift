import CCoreLocker

/// The version of the restore core that this library is built with, as "MAJOR.MINOR.PATCH".
public var coreVersion: String {
    let version = corelocker_version()
    return "\(version >> 16).\(version >> 8 & 0xff).\(version & 0xff)"
}
