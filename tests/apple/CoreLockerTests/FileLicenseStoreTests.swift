import Foundation
import Testing

@testable import CoreLocker

@Suite struct FileLicenseStoreTests {
    private func withFolder(_ body: (URL) throws -> Void) throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        try body(folder)
    }

    private func mode(_ url: URL) throws -> Int? {
        (try FileManager.default.attributesOfItem(atPath: url.path)[.posixPermissions] as? NSNumber)?.intValue
    }

    @Test func keepsOneLicenseABundle() throws {
        try withFolder { folder in
            let (store, first, second) = (try FileLicenseStore(folder: folder), UUID(), UUID())
            #expect(try store.license(bundle: first) == nil)
            try store.save("a.b.c", bundle: first)
            try store.save("d.e.f", bundle: second)
            try store.save("g.h.i", bundle: first)
            // Another process reads the same.
            let again = try FileLicenseStore(folder: folder)
            #expect(try again.license(bundle: first) == "g.h.i")
            #expect(try again.license(bundle: second) == "d.e.f")
            try again.removeLicense(bundle: first)
            try again.removeLicense(bundle: first)
            #expect(try store.license(bundle: first) == nil)
            #expect(try store.license(bundle: second) == "d.e.f")
        }
    }

    @Test func onlyTheOwnerReads() throws {
        try withFolder { folder in
            let (store, bundle) = (try FileLicenseStore(folder: folder), UUID())
            try store.save("a.b.c", bundle: bundle)
            try store.save(ClockMark(time: 1, ticks: 2, boot: "b"))
            #expect(try mode(folder) == 0o700)
            for name in try FileManager.default.contentsOfDirectory(atPath: folder.path) {
                #expect(try mode(folder.appendingPathComponent(name)) == 0o600, "\(name)")
            }
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).count == 2)
        }
    }

    @Test func keepsTheMark() throws {
        try withFolder { folder in
            let store = try FileLicenseStore(folder: folder)
            #expect(try store.mark() == nil)
            let mark = ClockMark(time: 1_800_000_000, ticks: 12, boot: "ü\"\n")
            try store.save(mark)
            #expect(try store.mark() == mark)
            try store.removeMark()
            #expect(try store.mark() == nil)
        }
    }

    @Test func aDamagedMarkIsRefused() throws {
        try withFolder { folder in
            let store = try FileLicenseStore(folder: folder)
            for text in [
                "", "{}", #"{"time":1,"ticks":2}"#, #"{"time":1.5,"ticks":2,"boot":"b"}"#, "\u{0}", #"{"time":1,"ticks":2,"boot":"b"}x"#,
            ] {
                try Data(text.utf8).write(to: folder.appendingPathComponent("clock.json"))
                #expect(outcome { _ = try store.mark() } == "license-clock", "\(text)")
            }
        }
    }

    @Test func whatCannotBeWrittenIsAnError() throws {
        try withFolder { folder in
            let (store, bundle) = (try FileLicenseStore(folder: folder), UUID())
            try store.save("a.b.c", bundle: bundle)
            let place = folder.appendingPathComponent("\(bundle.uuidString.lowercased()).jws")
            try FileManager.default.removeItem(at: place)
            try FileManager.default.createDirectory(at: place.appendingPathComponent("inside"), withIntermediateDirectories: true)
            #expect(outcome { try store.save("a.b.c", bundle: bundle) } == "file-access")
            #expect(outcome { _ = try store.license(bundle: bundle) } == "file-access")
            let file = folder.appendingPathComponent("file")
            try Data().write(to: file)
            #expect(outcome { _ = try FileLicenseStore(folder: file.appendingPathComponent("below")) } == "file-access")
        }
    }
}
