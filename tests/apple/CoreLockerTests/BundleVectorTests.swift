import CCoreLocker
import Foundation
import Testing

@testable import CoreLocker

@Suite struct BundleVectorTests {
    @Test func bundles() throws {
        for vector in try Vectors.cases(try Vectors.file("bundle.json")) {
            let data = try vector.base64("bundle")
            var bundle: KeyBundle?
            let found = outcome { bundle = try KeyBundle(data, publisher: vector["publisher"]?.text) }
            #expect(found == vector["expect"]?.text, "\(vector.name)")
            guard let bundle else { continue }
            if let id = vector["id"]?.text { #expect(bundle.id.uuidString.lowercased() == id, "\(vector.name)") }
            if let model = vector["model"]?.text { #expect(bundle.model == model, "\(vector.name)") }
            if let version = vector["model_version"]?.integer { #expect(bundle.modelVersion == version, "\(vector.name)") }
            if let tiers = vector["tiers"]?.array { #expect(bundle.tiers == tiers.compactMap(\.text), "\(vector.name)") }
            for section in vector["sections"]?.array ?? [] {
                try check(bundle, Int(try section.number("index")), section, vector.name)
            }
            for restore in vector["restores"]?.array ?? [] { try check(bundle, restore, vector.name) }
        }
    }

    private func check(_ bundle: KeyBundle, _ index: Int, _ expected: JSON, _ name: String) throws {
        var opened: DecryptedSection?
        let key = try expected.hex("content_key")
        let found = outcome {
            opened = try bundle.decrypt(bundle.header.sections[index], contentKey: try ContentKey(key).bytes)
        }
        #expect(found == expected["expect"]?.text, "\(name), section \(index)")
        guard let opened else { return }
        expectEqual(opened.sample, try expected.hex("sample"), name)
        expectEqual(opened.file, try expected.hex("file"), name)
        expectEqual(Data(opened.patch), try expected.base64("patch"), name)
    }

    private func check(_ bundle: KeyBundle, _ expected: JSON, _ name: String) throws {
        let comment = "\(name): \(expected["comment"]?.text ?? "")"
        let artifact = bundle.artifacts[Int(try expected.number("artifact"))]
        let entry = artifact.files[Int(try expected.number("file"))]
        let path = entry.path == artifact.name ? entry.path : "\(artifact.name)/\(entry.path)"
        try withTemporaryFile(path, try expected.base64("locked")) { url in
            let tier = Int(try expected.number("tier"))
            var restored: Data?
            let found = outcome {
                let file = try bundle.restore(
                    url, tier: tier, contentKey: try ContentKey(try expected.hex("content_key")), keyTier: tier,
                    check: expected["check"]?.text == "always" ? .always : .off)
                restored = Data(file.data)
                try file.checkUnchanged()
            }
            #expect(found == expected["expect"]?.text, "\(comment)")
            expectEqual(restored, expected["restored"]?.text.flatMap { Data(base64Encoded: $0) }, comment)
        }
    }

    /// Patches are read by the C core alone: the same verdicts as in every other language.
    @Test func patches() throws {
        for vector in try Vectors.cases(try Vectors.file("patch.json")) {
            let patch = try vector.base64("patch")
            if let size = vector["file_size"].flatMap({ UInt64($0.text ?? "") ?? $0.integer.map(UInt64.init) }) {
                let error = patch.withUnsafeBytes { corelocker_check_patch($0.baseAddress, $0.count, size) }
                #expect(String(cString: corelocker_error_name(error)) == vector["expect"]?.text, "\(vector.name)")
            }
            if let before = vector["file"]?.text.flatMap({ Data(base64Encoded: $0) }) {
                try apply(patch, to: before, vector)
            }
        }
    }

    private func apply(_ patch: Data, to before: Data, _ vector: JSON) throws {
        let (file, copy) = (NativeMemory(count: before.count), NativeMemory(count: patch.count))
        before.copyBytes(to: file.bytes)
        patch.copyBytes(to: copy.bytes)
        var patches = [corelocker_patch()]
        patches[0].bytes = copy.bytes.baseAddress
        patches[0].size = copy.bytes.count
        var handle: OpaquePointer?
        let error = patches.withUnsafeMutableBufferPointer { patches in
            var options = corelocker_options()
            options.struct_size = UInt32(MemoryLayout<corelocker_options>.size)
            options.flags = CORELOCKER_UNCHECKED
            options.patches = patches.baseAddress
            options.patch_count = 1
            options.file_size = UInt64(before.count)
            options.full_check = CORELOCKER_FULL_CHECK_OFF
            return corelocker_open_buffer(file.bytes.baseAddress, file.bytes.count, &options, &handle)
        }
        corelocker_close(handle)
        #expect(String(cString: corelocker_error_name(error)) == vector["expect"]?.text, "\(vector.name)")
        let after = vector["restored"]?.text.flatMap { Data(base64Encoded: $0) } ?? before
        #expect(Data(file.bytes) == after, "\(vector.name)")
    }
}
