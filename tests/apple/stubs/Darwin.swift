@_exported import Glibc

/// sysctlbyname(3).
public func sysctlbyname(
    _ name: UnsafePointer<CChar>, _ old: UnsafeMutableRawPointer?, _ oldSize: UnsafeMutablePointer<Int>?, _ new: UnsafeMutableRawPointer?,
    _ newSize: Int
) -> Int32 { -1 }
