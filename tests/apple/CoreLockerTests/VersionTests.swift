import COpenSSL
import Testing

@testable import CoreLocker

@Test func coreIsLinked() {
    #expect(coreVersion.split(separator: ".").count == 3)
    #expect(OSSL_HPKE_get_ciphertext_size(OSSL_HPKE_SUITE(kem_id: 0x10, kdf_id: 1, aead_id: 2), 32) == 48)
}
