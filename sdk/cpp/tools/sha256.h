// corelocker_sha256 by OpenSSL, for the programs of this repository.
#pragma once

#include <openssl/evp.h>

#include <cstddef>
#include <cstdint>

inline int sha256_by_openssl(void* /*context*/, const void* bytes, size_t size, uint8_t digest[32]) {
  return EVP_Digest(bytes, size, digest, nullptr, EVP_sha256(), nullptr) == 1 ? 0 : 1;
}
