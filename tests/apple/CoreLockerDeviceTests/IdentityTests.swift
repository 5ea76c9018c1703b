import Foundation
import Testing

@testable import CoreLocker
@testable import CoreLockerDevice

/// Which key and which identity an app has, and what errors of App Attest mean.
@Suite struct IdentityTests {
    private static let pem = """
        -----BEGIN CERTIFICATE-----
        AAAA
        -----END CERTIFICATE-----

        """

    /// A configuration for `environment`, in a folder like an app's.
    private func withApp(_ environment: String, _ pem: String?, _ body: (AppConfiguration, URL) throws -> Void) throws {
        let world = try FlowWorld()
        try withTemporaryFile("app/note.txt", Data()) { url in
            let folder = url.deletingLastPathComponent()
            try world.writeApp(folder)
            let file = folder.appendingPathComponent("corelocker.json")
            var members = try #require(try JSONReader.read(try Data(contentsOf: file)).object)
            members["environment"] = .text(environment)
            if let pem { try Data(pem.utf8).write(to: folder.appendingPathComponent("attestation.pem")) }
            try body(try AppConfiguration(FlowWorld.bytes(members)), folder)
        }
    }

    @Test func aPhoneHasAppAttestAndTheEnclave() throws {
        for environment in ["production", "development"] {
            try withApp(environment, nil) { configuration, folder in
                let phone = FakePhone()
                let (key, attester) = try phone.system.identity(configuration, folder: folder)
                #expect(attester is AppAttester && phone.enclave.count == 1)
                let again = try phone.system.identity(configuration, folder: folder).0
                #expect(key.publicKey == again.publicKey)
                #expect(Set(phone.keychain.items.value.keys) == ["\(configuration.app).corelocker device-key"])
            }
        }
    }

    /// An identity for development in an app for production is of no account.
    @Test func productionTakesNoDevelopmentIdentity() throws {
        try withApp("production", TestKey.pem + Self.pem) { configuration, folder in
            let phone = FakePhone()
            let (_, attester) = try phone.system.identity(configuration, folder: folder)
            #expect(attester is AppAttester)
            #expect(phone.enclave.count == 1)
        }
    }

    #if DEBUG
        @Test func aDebugBuildTakesADevelopmentIdentity() throws {
            try withApp("development", TestKey.pem + Self.pem) { configuration, folder in
                let phone = FakePhone()
                phone.enclave.available.value = false
                let (_, attester) = try phone.system.identity(configuration, folder: folder)
                #expect(attester is DevelopmentIdentity && phone.enclave.count == 0)
                #expect(Set(phone.keychain.items.value.keys) == ["\(configuration.app).corelocker development-device-key"])
            }
            try withApp("development", "no identity") { configuration, folder in
                #expect(outcome { _ = try FakePhone().system.identity(configuration, folder: folder) } == "attestation-evidence")
            }
        }
    #endif

    /// Codes of DCError.h, and what is no error of App Attest.
    @Test func whatErrorsOfAppAttestMean() {
        let meanings: [(Int, AppAttestFailure)] = [
            (0, .other), (1, .unsupported), (2, .invalidKey), (3, .invalidKey), (4, .unavailable), (5, .other),
        ]
        for (code, meaning) in meanings {
            #expect(AppAttestFailure(NSError(domain: "com.apple.devicecheck.error", code: code)) == meaning)
        }
        #expect(AppAttestFailure(NSError(domain: "NSURLErrorDomain", code: 3)) == .other)
    }
}
