// The sample of a file: the bytes that say cheaply which file in which state one has (docs/formats.md, "Sample").
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"
#include "mapping.h"
#include "patch.h"

namespace corelocker {

// What SHA-256 is taken of. Its bytes are gathered part by part while the file comes into memory. Plain data like the
// handle that it serves: zero is empty, and `free` wipes.
class Sample {
 public:
  // Lays the sample of a file of `file_size` bytes out. CORELOCKER_MEMORY.
  corelocker_error prepare(const Patch& patch, uint64_t file_size);

  // Gathers what lies in [from, to); calls go on where the last one ended. Fails as Mapping::copy_out.
  corelocker_error gather(uint64_t from, uint64_t to, const Mapping& file);
  // Gathers everything once more that may have changed since: what lies in memory of the handle's own.
  void gather_changed(const Mapping& file);

  const uint8_t* bytes() const { return bytes_; }
  size_t size() const { return size_; }
  void free();

 private:
  struct Piece {
    uint64_t position;  // in the file
    size_t target;      // in the sample
    size_t length;
  };

  void add(uint64_t position, uint64_t length);

  Piece* pieces_;
  size_t piece_count_;
  size_t next_;  // all pieces before this one are gathered
  uint8_t* bytes_;
  size_t size_;
};

}  // namespace corelocker
