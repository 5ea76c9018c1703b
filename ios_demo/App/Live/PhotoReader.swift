import CoreGraphics
import DemoCore
import Foundation
import ImageIO

/// Makes a picture of the photo library as small and as gray as the model takes it.
enum PhotoReader {
    private static let size = 256

    /// Takes a while: not for the main actor. nil when the data is no picture.
    nonisolated static func read(_ data: Data) async -> GrayImage? {
        let options: [CFString: Any] = [
            kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
            kCGImageSourceThumbnailMaxPixelSize: size,
        ]
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let picture = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
        else { return nil }
        return gray(picture)
    }

    private static func gray(_ picture: CGImage) -> GrayImage? {
        let (width, height) = (picture.width, picture.height)
        var pixels = [UInt8](repeating: 0, count: width * height)
        let drawn = pixels.withUnsafeMutableBytes { memory in
            guard
                let context = CGContext(
                    data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width,
                    space: CGColorSpaceCreateDeviceGray(), bitmapInfo: CGImageAlphaInfo.none.rawValue)
            else { return false }
            let all = CGRect(x: 0, y: 0, width: width, height: height)
            // What is transparent counts as a white ground.
            context.setFillColor(gray: 1, alpha: 1)
            context.fill(all)
            context.draw(picture, in: all)
            return true
        }
        return drawn ? GrayImage(gray: pixels, width: width, height: height) : nil
    }
}

extension GrayImage {
    /// The picture for the screen.
    var cgImage: CGImage? {
        guard let provider = CGDataProvider(data: Data(pixels) as CFData) else { return nil }
        return CGImage(
            width: Self.side, height: Self.side, bitsPerComponent: 8, bitsPerPixel: 8, bytesPerRow: Self.side,
            space: CGColorSpaceCreateDeviceGray(), bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider,
            decode: nil, shouldInterpolate: false, intent: .defaultIntent)
    }
}
