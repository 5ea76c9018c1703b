import CCoreLocker
import CoreLockerRestoredModule
import ExecuTorch
import Foundation
import Testing

/// What ExecuTorch itself makes of a program in memory, in a simulator or on a Mac.
@Suite struct RestoredModuleTests {
    private static let exports = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../../../tests/data/exports")

    private static func path(_ name: String) -> String { exports.appendingPathComponent(name).path }

    /// A file as the C core opens it, without a patch; it closes the handle in the end, as `RestoredFile` does.
    private final class OpenedFile {
        let handle: OpaquePointer

        init(_ path: String) throws {
            var handle: OpaquePointer?
            try #require(corelocker_open_path(path, nil, &handle) == CORELOCKER_OK)
            self.handle = try #require(handle)
        }

        deinit { corelocker_close(handle) }
    }

    private func run(_ module: Module, _ shape: [Int]) throws -> [Float] {
        let scalars = (0..<shape.reduce(1, *)).map { Float($0 % 7) / 7 - 0.5 }
        let output: Tensor<Float> = try module.forward(Tensor<Float>(scalars, shape: shape))
        return output.scalars()
    }

    @Test func computesAsFromItsPath() throws {
        let path = Self.path("plain-portable/plain.pte")
        let plain = try run(Module(filePath: path, dataFilePaths: [], loadMode: .file), [2, 2])
        let file = try OpenedFile(path)
        let restored = RestoredModule(program: file.handle, programOwner: file, data: nil, dataOwner: nil)
        #expect(plain.count == 4)
        #expect(try run(restored, [2, 2]) == plain)
        #expect(try run(restored, [2, 2]) == plain)
    }

    @Test func takesExternalWeightsFromMemory() throws {
        let (program, weights) = (Self.path("vgg-external/vgg.pte"), Self.path("vgg-external/vgg.ptd"))
        let plain = try run(Module(filePath: program, dataFilePaths: [weights], loadMode: .file), [1, 3, 16, 16])
        let (first, second) = (try OpenedFile(program), try OpenedFile(weights))
        let restored = RestoredModule(
            program: first.handle, programOwner: first, data: second.handle, dataOwner: second)
        #expect(!plain.isEmpty)
        #expect(try run(restored, [1, 3, 16, 16]) == plain)
        #expect(throws: (any Error).self) {
            try run(RestoredModule(program: first.handle, programOwner: first, data: nil, dataOwner: nil), [1, 3, 16, 16])
        }
    }

    @Test func keepsItsFilesAsLongAsItLives() throws {
        weak var owner: OpenedFile?
        do {
            let file = try OpenedFile(Self.path("plain-portable/plain.pte"))
            owner = file
            let restored = RestoredModule(program: file.handle, programOwner: file, data: nil, dataOwner: nil)
            #expect(owner != nil)
            #expect(try run(restored, [2, 2]).count == 4)
        }
        #expect(owner == nil)
    }

    @Test func aFileThatWasWrittenToIsNotRun() throws {
        let place = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).pte")
        try FileManager.default.copyItem(atPath: Self.path("plain-portable/plain.pte"), toPath: place.path)
        defer { try? FileManager.default.removeItem(at: place) }
        let file = try OpenedFile(place.path)
        let restored = RestoredModule(program: file.handle, programOwner: file, data: nil, dataOwner: nil)
        #expect(try run(restored, [2, 2]).count == 4)
        let handle = try FileHandle(forWritingTo: place)
        try handle.truncate(atOffset: 16)
        try handle.close()
        #expect(throws: (any Error).self) { try run(restored, [2, 2]) }
    }
}
