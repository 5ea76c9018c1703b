import Foundation
import Testing

@testable import CoreLocker

/// What 10,000 restores leave behind: nothing.
@Suite(.serialized) struct LifetimeTests {
    /// With a bundle that is opened once, from memory, or each time anew, from its file.
    @Test(arguments: [false, true]) func restoringLeavesNothingBehind(fromFile: Bool) throws {
        let vector = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "restores-large" })
        let restore = try #require(vector["restores"]?.array?.first { $0["expect"]?.text == "ok" })
        let opened = try KeyBundle(try vector.base64("bundle"))
        let key = try ContentKey(try restore.hex("content_key"))
        let tier = Int(try restore.number("tier"))
        let expected = try restore.base64("restored")
        let stem = "lifetime-\(UUID().uuidString)"
        try withTemporaryFile("\(stem).bin", try restore.base64("locked")) { url in
            let place = url.deletingPathExtension().appendingPathExtension("clkey")
            try vector.base64("bundle").write(to: place)
            func once() throws {
                let bundle = fromFile ? try KeyBundle(contentsOf: place) : opened
                let file = try bundle.restore(url, tier: tier, contentKey: key, keyTier: tier, check: .off)
                #expect(file.data == expected)
            }
            for _ in 0..<200 { try once() }
            let before = try Footprint(of: stem)
            for _ in 0..<10_000 { try once() }
            let after = try Footprint(of: stem)
            #expect(after.mappings == 0 && after.descriptors == 0)
            // The allocator keeps some; 10,000 leaked patches or files would take ten times as much.
            #expect(after.residentBytes - before.residentBytes < 24 << 20)
            #expect(after.allMappings - before.allMappings < 500)
        }
    }

    /// The restored bytes live as long as the data that shows them, also when the object is gone.
    @Test func dataKeepsTheMapping() throws {
        let vector = try #require(try Vectors.cases(try Vectors.file("bundle.json")).first { $0.name == "restores" })
        let restore = try #require(vector["restores"]?.array?.first { $0["expect"]?.text == "ok" })
        let bundle = try KeyBundle(try vector.base64("bundle"))
        let key = try ContentKey(try restore.hex("content_key"))
        let tier = Int(try restore.number("tier"))
        let name = "kept-\(UUID().uuidString).bin"
        try withTemporaryFile(name, try restore.base64("locked")) { url in
            var data: Data? = try bundle.restore(url, tier: tier, contentKey: key, keyTier: tier, check: .off).data
            #expect(try data == restore.base64("restored"))
            data = nil
            #expect(try Footprint(of: name).mappings == 0)
        }
    }
}

/// What a process holds. Zero where the system does not say: only Linux does.
private struct Footprint {
    let mappings: Int
    let allMappings: Int
    let descriptors: Int
    let residentBytes: Int

    /// - Parameter name: part of the path of the files whose mappings and descriptors count.
    init(of name: String) throws {
        #if os(Linux)
            let maps = try String(contentsOfFile: "/proc/self/maps", encoding: .utf8).split(separator: "\n")
            mappings = maps.filter { $0.contains(name) }.count
            allMappings = maps.count
            let links = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")
            descriptors =
                links.filter {
                    (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)"))?.contains(name) ?? false
                }.count
            let pages = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ").compactMap { Int($0) }
            residentBytes = pages[1] * 4096
        #else
            (mappings, allMappings, descriptors, residentBytes) = (0, 0, 0, 0)
        #endif
    }
}
