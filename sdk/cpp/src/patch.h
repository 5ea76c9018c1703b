// A patch, checked and applied in place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"

namespace corelocker {

// `count` pieces of `length` bytes, `stride` apart, the first at `offset`; all in bytes of the file.
struct Run {
  uint64_t offset;
  uint32_t length;
  uint32_t stride;
  uint32_t count;

  uint64_t span() const { return uint64_t{stride} * (count - 1) + length; }
};

// A view of a patch that lies in the caller's memory. Only `parse` gives it contents, and only when every rule of the
// format holds, so the other functions trust the runs.
class Patch {
 public:
  static corelocker_error parse(const uint8_t* bytes, size_t size, uint64_t file_size, Patch* patch);

  uint32_t run_count() const { return run_count_; }
  Run run(uint32_t index) const;
  size_t payload_offset() const { return payload_offset_; }
  size_t payload_size() const { return payload_size_; }

  // Exchanges the bytes of `file` at the runs with `payload`, so a second call undoes the first.
  void exchange(uint8_t* file, uint8_t* payload) const;

  // Sets the bit of every page that a piece touches. Page 0 begins `lead` bytes before the file's first byte.
  void mark_pages(size_t lead, size_t page_size, uint8_t* bits) const;

 private:
  const uint8_t* runs_ = nullptr;
  uint32_t run_count_ = 0;
  size_t payload_offset_ = 0;
  size_t payload_size_ = 0;
};

}  // namespace corelocker
