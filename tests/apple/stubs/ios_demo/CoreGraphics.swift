import Foundation

// Of Core Foundation; what is bridged by `as` on Apple's systems is the same type here.
public typealias CFData = Data

public final class CGColorSpace {}
/// ObjC: CGColorSpaceCreateDeviceGray
public func CGColorSpaceCreateDeviceGray() -> CGColorSpace { fatalError() }

/// ObjC: CGImageAlphaInfo
public enum CGImageAlphaInfo: UInt32, Sendable { case none }
public struct CGBitmapInfo: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
}
/// ObjC: CGColorRenderingIntent
public enum CGColorRenderingIntent: Int32, Sendable { case defaultIntent }

public final class CGDataProvider {
    /// ObjC: CGDataProviderCreateWithCFData
    public init?(data: CFData) {}
}

public final class CGImage {
    /// ObjC: CGImageCreate
    public init?(
        width: Int, height: Int, bitsPerComponent: Int, bitsPerPixel: Int, bytesPerRow: Int, space: CGColorSpace, bitmapInfo: CGBitmapInfo,
        provider: CGDataProvider, decode: UnsafePointer<CGFloat>?, shouldInterpolate: Bool, intent: CGColorRenderingIntent
    ) {}
    /// ObjC: CGImageGetWidth
    public var width: Int { fatalError() }
    /// ObjC: CGImageGetHeight
    public var height: Int { fatalError() }
}

public final class CGContext {
    /// ObjC: CGBitmapContextCreate
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: UInt32
    ) {}
    /// ObjC: CGContextSetGrayFillColor
    public func setFillColor(gray: CGFloat, alpha: CGFloat) {}
    /// ObjC: CGContextFillRect
    public func fill(_ rect: CGRect) {}
    /// ObjC: CGContextDrawImage
    public func draw(_ image: CGImage, in rect: CGRect, byTiling: Bool = false) {}
}
