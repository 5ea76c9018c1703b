#include "request.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace corelocker {
namespace {

constexpr uint32_t kKnownFlags = CORELOCKER_UNCHECKED | CORELOCKER_COPY;

}  // namespace

Request::Request(const corelocker_options* options) {
  options_.file_size = CORELOCKER_ANY_SIZE;
  if (options == nullptr) return;
  if (options->struct_size < sizeof(corelocker_options)) {
    valid_ = false;
    return;
  }
  options_ = *options;
  valid_ = (options_.flags & ~kKnownFlags) == 0 && (options_.patches != nullptr || options_.patch_count == 0);
  if (options_.patches == nullptr) options_.patch_count = 0;
  for (size_t i = 0; i < options_.patch_count; i++) valid_ &= check_patch(options_.patches[i]);
  valid_ &= check_full_check();
}

Request::~Request() {
  for (size_t i = 0; i < options_.patch_count; i++) {
    const corelocker_patch& patch = options_.patches[i];
    corelocker_wipe(patch.bytes, i == 0 ? std::min(patch.size, first_to_wipe_) : patch.size);
  }
}

bool Request::check_patch(const corelocker_patch& patch) const {
  if (patch.bytes == nullptr && patch.size > 0) return false;
  const uint8_t* const digests[] = {patch.locked_sample, patch.restored_sample, patch.restored_sha256};
  const bool unchecked = (options_.flags & CORELOCKER_UNCHECKED) != 0;
  return std::all_of(std::begin(digests), std::end(digests),
                     [&](const uint8_t* digest) { return digest == nullptr ? unchecked : options_.sha256 != nullptr; });
}

bool Request::check_full_check() const {
  // A caller in C may have put any number there, which C++ must not read as the enumeration.
  static_assert(sizeof(corelocker_full_check) == sizeof(uint32_t));
  uint32_t mode;
  std::memcpy(&mode, &options_.full_check, sizeof(mode));
  switch (mode) {
    case CORELOCKER_FULL_CHECK_DEFAULT:
    case CORELOCKER_FULL_CHECK_OFF:
      return true;
    case CORELOCKER_FULL_CHECK_ONCE:
    case CORELOCKER_FULL_CHECK_ALWAYS:
      return final_sha256() != nullptr && options_.sha256 != nullptr;
    default:
      return false;
  }
}

const uint8_t* Request::final_sha256() const {
  if (options_.patch_count == 0) return options_.locked_sha256;
  return options_.patches[options_.patch_count - 1].restored_sha256;
}

corelocker_full_check Request::full_check(bool flips) const {
  if (options_.full_check != CORELOCKER_FULL_CHECK_DEFAULT) return options_.full_check;
  return flips && final_sha256() != nullptr ? CORELOCKER_FULL_CHECK_ONCE : CORELOCKER_FULL_CHECK_OFF;
}

corelocker_error Request::sha256(const void* bytes, size_t size, uint8_t digest[kDigestSize]) const {
  return options_.sha256(options_.sha256_context, bytes, size, digest) == 0 ? CORELOCKER_OK : CORELOCKER_ARGUMENT;
}

}  // namespace corelocker
