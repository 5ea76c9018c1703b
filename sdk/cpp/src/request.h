// The options of one open call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"

namespace corelocker {

constexpr size_t kDigestSize = 32;

// Checks the caller's options, and wipes the caller's patches when the call returns.
class Request {
 public:
  explicit Request(const corelocker_options* options);
  ~Request();
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  bool valid() const { return valid_; }
  bool copy() const { return (options_.flags & CORELOCKER_COPY) != 0; }
  bool wants_size(size_t size) const { return options_.file_size == CORELOCKER_ANY_SIZE || options_.file_size == size; }
  size_t patch_count() const { return options_.patch_count; }
  const corelocker_patch& patch(size_t index) const { return options_.patches[index]; }
  uint8_t* patch_bytes(size_t index) const { return static_cast<uint8_t*>(options_.patches[index].bytes); }

  // The digest that the whole file must have in the end; NULL when the caller gave none.
  const uint8_t* final_sha256() const;
  // OFF, ONCE or ALWAYS. `flips` says whether a patch changes elements instead of putting bytes in.
  corelocker_full_check full_check(bool flips) const;

  // Only the first bytes of the first patch are left to wipe, which saves going through a large payload again.
  void keep_to_wipe(size_t first_bytes) { first_to_wipe_ = first_bytes; }

  // CORELOCKER_ARGUMENT when the caller's function fails.
  corelocker_error sha256(const void* bytes, size_t size, uint8_t digest[kDigestSize]) const;

 private:
  bool check_patch(const corelocker_patch& patch) const;
  bool check_full_check() const;

  corelocker_options options_ = {};
  bool valid_ = true;
  size_t first_to_wipe_ = SIZE_MAX;
};

}  // namespace corelocker
