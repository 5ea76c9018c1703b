import Foundation
import Testing

@testable import CoreLocker

/// Restores that run at the same time: for the thread sanitizer, and each must give its own bytes.
@Suite struct ParallelRestoreTests {
    @Test(.timeLimit(.minutes(10))) func manyRestoresOfOneFile() async throws {
        let vector = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "restores-large" })
        let restore = try #require(vector["restores"]?.array?.first { $0["expect"]?.text == "ok" })
        let (key, top) = (try ContentKey(try restore.hex("content_key")), Int(try restore.number("tier")))
        let (original, restored) = (try restore.base64("locked"), try restore.base64("restored"))
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let (locked, place) = (folder.appendingPathComponent("locked.bin"), folder.appendingPathComponent("model.clkey"))
        try original.write(to: locked)
        try vector.base64("bundle").write(to: place)
        // One bundle for all, and one for each.
        let shared = try KeyBundle(contentsOf: place)
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for number in 0..<32 {
                // Every third one maps the file as it is locked.
                let (tier, wanted) = number.isMultiple(of: 3) ? (0, original) : (top, restored)
                group.addTask {
                    let bundle = number.isMultiple(of: 4) ? try KeyBundle(contentsOf: place) : shared
                    for check in [FullCheck.off, .always] {
                        let file = try bundle.restore(locked, tier: tier, contentKey: key, keyTier: top, check: check)
                        guard file.data == wanted else { return false }
                        try file.checkUnchanged()
                    }
                    return true
                }
            }
            for try await isRight in group { #expect(isRight) }
        }
        #expect(try Data(contentsOf: locked) == original)
    }
}
