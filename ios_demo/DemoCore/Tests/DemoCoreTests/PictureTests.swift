import Foundation
import Testing

@testable import DemoCore

struct PictureTests {
    private func idx(_ header: [UInt32], _ body: [UInt8]) -> Data {
        Data(header.flatMap { word in withUnsafeBytes(of: word.bigEndian) { [UInt8]($0) } } + body)
    }

    private func images(_ count: Int) -> Data {
        idx([0x803, UInt32(count), 28, 28], (0..<count).flatMap { [UInt8](repeating: UInt8($0), count: 784) })
    }

    @Test func readsASet() throws {
        let set = try LabelledSet(images: images(3), labels: idx([0x801, 3], [9, 0, 9]))
        #expect(set.images.map(\.garment) == [.ankleBoot, .tShirt, .ankleBoot])
        #expect(set.images.map { $0.image.pixels[783] } == [0, 1, 2])
        #expect(set.samples.map(\.id) == [1, 0])
    }

    @Test func refusesFilesThatAreNoSet() {
        let labels = idx([0x801, 1], [0])
        for broken in [
            Data(), Data([0, 0, 8]), images(1).dropLast(), images(1) + [0], idx([0x803, 1, 28, 27], []), idx([0x803, .max, 28, 28], []),
        ] {
            #expect(throws: LabelledSet.Malformed.images) { try LabelledSet(images: broken, labels: labels) }
        }
        for broken in [Data(), labels.dropLast(), labels + [0], idx([0x803, 1], [0]), idx([0x801, 1], [10])] {
            #expect(throws: LabelledSet.Malformed.labels) { try LabelledSet(images: images(1), labels: broken) }
        }
        #expect(throws: LabelledSet.Malformed.counts) { try LabelledSet(images: images(2), labels: labels) }
    }

    /// Whatever the bytes are, there is a set or a refusal.
    @Test func survivesDamage() {
        var random = SystemRandomNumberGenerator()
        let (whole, labels) = (images(2), idx([0x801, 2], [1, 2]))
        for _ in 0..<2000 {
            var (first, second) = (whole, labels)
            first[Int.random(in: 0..<16, using: &random)] = .random(in: 0...255, using: &random)
            second[Int.random(in: 0..<second.count, using: &random)] = .random(in: 0...255, using: &random)
            if let set = try? LabelledSet(images: first.prefix(.random(in: 0...first.count)), labels: second) {
                #expect(set.images.count == 2)
            }
        }
    }

    @Test func takesTheMiddleOfAPhoto() throws {
        // Left and right of the square are bright, the square itself is dark with one bright cell.
        let (width, height) = (112, 56)
        var gray = [UInt8](repeating: 255, count: width * height)
        for y in 0..<56 { for x in 28..<84 { gray[y * width + x] = 10 } }
        for y in 20..<22 { for x in 48..<50 { gray[y * width + x] = 210 } }
        let image = try #require(GrayImage(gray: gray, width: width, height: height))
        #expect(image.pixels[0] == 10)
        #expect(image.pixels[10 * 28 + 10] == 210)
        #expect(image.pixels.filter { $0 != 10 }.count == 1)
        #expect(image.input[10 * 28 + 10] == Float(210) / 255)
    }

    @Test func invertsALightGround() throws {
        var gray = [UInt8](repeating: 240, count: 28 * 28)
        gray[14 * 28 + 14] = 0
        let image = try #require(GrayImage(gray: gray, width: 28, height: 28))
        #expect(image.pixels[0] == 15)
        #expect(image.pixels[14 * 28 + 14] == 255)
    }

    @Test func everySizeIsCovered() throws {
        for size in [28, 29, 55, 57, 256] {
            let image = try #require(GrayImage(gray: [UInt8](repeating: 77, count: size * (size + 3)), width: size, height: size + 3))
            #expect(image.pixels.allSatisfy { $0 == 77 })
        }
    }

    @Test func refusesWhatDoesNotFit() {
        #expect(GrayImage(pixels: [0]) == nil)
        #expect(GrayImage(gray: [UInt8](repeating: 0, count: 27 * 28), width: 27, height: 28) == nil)
        #expect(GrayImage(gray: [], width: 28, height: 28) == nil)
    }
}
