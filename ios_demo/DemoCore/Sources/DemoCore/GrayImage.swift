/// A picture as the model takes it: 28 x 28 gray pixels, the garment light on black.
public struct GrayImage: Hashable, Sendable {
    public static let side = 28

    /// Row by row, 0 is black.
    public let pixels: [UInt8]

    /// nil unless there are 28 x 28 pixels.
    public init?(pixels: [UInt8]) {
        guard pixels.count == Self.side * Self.side else { return nil }
        self.pixels = pixels
    }

    /// The model's input, shape (1, 1, 28, 28): each pixel from 0 to 1.
    public var input: [Float] { pixels.map { Float($0) / 255 } }

    /// The middle square of a larger gray picture, made smaller by averages. A picture on a light ground is inverted, since the data set's garments
    /// are on black.
    ///
    /// - Parameters:
    ///   - gray: row by row, width x height pixels.
    /// - Returns: nil when the numbers do not fit, or the picture is smaller than 28 x 28.
    public init?(gray: [UInt8], width: Int, height: Int) {
        let square = min(width, height)
        guard square >= Self.side, gray.count == width * height else { return nil }
        let (left, top) = ((width - square) / 2, (height - square) / 2)
        // Where each of the 28 cells begins; every cell has a pixel at least.
        let edges = (0...Self.side).map { $0 * square / Self.side }
        var pixels: [UInt8] = []
        for row in 0..<Self.side {
            for column in 0..<Self.side {
                var sum = 0
                for y in edges[row]..<edges[row + 1] {
                    for x in edges[column]..<edges[column + 1] { sum += Int(gray[(top + y) * width + left + x]) }
                }
                pixels.append(UInt8(sum / ((edges[row + 1] - edges[row]) * (edges[column + 1] - edges[column]))))
            }
        }
        self.pixels = Self.border.map { Int(pixels[$0]) }.reduce(0, +) > 128 * Self.border.count ? pixels.map { 255 - $0 } : pixels
    }

    /// Indices of the outermost pixels.
    private static let border = (0..<side * side).filter { [0, side - 1].contains($0 / side) || [0, side - 1].contains($0 % side) }
}
