import Foundation

/// A picture and what it shows.
public struct LabelledImage: Hashable, Sendable, Identifiable {
    /// Its place in the set.
    public let id: Int
    public let image: GrayImage
    public let garment: Garment

    public init(id: Int, image: GrayImage, garment: Garment) { (self.id, self.image, self.garment) = (id, image, garment) }
}

/// The classes of Fashion-MNIST, in the order of the model's outputs.
public enum Garment: Int, CaseIterable, Hashable, Sendable {
    case tShirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankleBoot

    public var name: Message {
        switch self {
        case .tShirt: Message("T-shirt")
        case .trouser: Message("Trouser")
        case .pullover: Message("Pullover")
        case .dress: Message("Dress")
        case .coat: Message("Coat")
        case .sandal: Message("Sandal")
        case .shirt: Message("Shirt")
        case .sneaker: Message("Sneaker")
        case .bag: Message("Bag")
        case .ankleBoot: Message("Ankle boot")
        }
    }
}

/// The bundled pictures with their labels, on which accuracy is measured.
public struct LabelledSet: Sendable {
    /// Why a file is not a set of pictures.
    public enum Malformed: Error, Equatable {
        case images, labels, counts
    }

    private static let imagesMagic: UInt32 = 0x0803
    private static let labelsMagic: UInt32 = 0x0801

    public let images: [LabelledImage]

    public init(images: [LabelledImage]) { self.images = images }

    /// Reads the two files of a set in the IDX format, in which the MNIST sets are published.
    ///
    /// - Parameters:
    ///   - images: big-endian magic number, count, rows, columns; then the pixels.
    ///   - labels: big-endian magic number, count; then one byte each.
    public init(images: Data, labels: Data) throws(Malformed) {
        let (images, labels) = ([UInt8](images), [UInt8](labels))
        let (size, side) = (GrayImage.side * GrayImage.side, UInt32(GrayImage.side))
        guard let count = Self.word(images, 1), Self.word(images, 0) == Self.imagesMagic, Self.word(images, 2) == side,
            Self.word(images, 3) == side, images.count == 16 + Int(count) * size
        else { throw .images }
        guard Self.word(labels, 0) == Self.labelsMagic, let labelCount = Self.word(labels, 1), labels.count == 8 + Int(labelCount)
        else { throw .labels }
        guard count == labelCount else { throw .counts }
        var read: [LabelledImage] = []
        for index in 0..<Int(count) {
            guard let garment = Garment(rawValue: Int(labels[8 + index])) else { throw .labels }
            guard let image = GrayImage(pixels: Array(images[(16 + index * size)..<(16 + (index + 1) * size)])) else { throw .images }
            read.append(LabelledImage(id: index, image: image, garment: garment))
        }
        self.images = read
    }

    private static func word(_ bytes: [UInt8], _ index: Int) -> UInt32? {
        guard bytes.count >= 4 * index + 4 else { return nil }
        return bytes[(4 * index)..<(4 * index + 4)].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// The first picture of each class, for the gallery.
    public var samples: [LabelledImage] {
        Garment.allCases.compactMap { garment in images.first { $0.garment == garment } }
    }
}
