import CoreGraphics
import Foundation
// Core Foundation's names are there.
@_exported import Security

/// ObjC: kCGImageSourceCreateThumbnailFromImageAlways
nonisolated(unsafe) public let kCGImageSourceCreateThumbnailFromImageAlways = CFString()
/// ObjC: kCGImageSourceCreateThumbnailWithTransform
nonisolated(unsafe) public let kCGImageSourceCreateThumbnailWithTransform = CFString()
/// ObjC: kCGImageSourceThumbnailMaxPixelSize
nonisolated(unsafe) public let kCGImageSourceThumbnailMaxPixelSize = CFString()

public final class CGImageSource {}
/// ObjC: CGImageSourceCreateWithData
public func CGImageSourceCreateWithData(_ data: CFData, _ options: CFDictionary?) -> CGImageSource? { nil }
/// ObjC: CGImageSourceCreateThumbnailAtIndex
public func CGImageSourceCreateThumbnailAtIndex(_ isrc: CGImageSource, _ index: Int, _ options: CFDictionary?) -> CGImage? { nil }
