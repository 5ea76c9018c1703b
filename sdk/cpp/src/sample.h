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

  // Gathers what lies in [from, to) of the locked file; calls go on where the last one ended. Fails as
  // Mapping::copy_out.
  corelocker_error gather_locked(uint64_t from, uint64_t to, const Mapping& file);
  // The same of the restored file, after `gather_locked`. What is not in memory of the handle's own has not changed.
  void gather_restored(uint64_t from, uint64_t to, const Mapping& file);

  const uint8_t* locked() const { return bytes_; }
  const uint8_t* restored() const { return bytes_ + size_; }
  size_t size() const { return size_; }
  void free();

 private:
  struct Piece {
    uint64_t position;  // in the file
    size_t target;      // in the sample
    size_t length;
  };

  // Pieces in ascending order, of which `next` are done: the windows, or the ends of the runs.
  struct Pieces {
    const Piece* first;
    size_t count;
    size_t next_locked;
    size_t next_restored;
  };

  void add(uint64_t position, uint64_t length);
  template <typename Copy>
  static corelocker_error gather(const Pieces& pieces, size_t* next, uint64_t from, uint64_t to, Copy copy);

  Piece* pieces_;
  size_t piece_count_;
  Pieces parts_[2];
  uint8_t* bytes_;  // of the locked file, then of the restored one
  size_t size_;     // of each
};

}  // namespace corelocker
