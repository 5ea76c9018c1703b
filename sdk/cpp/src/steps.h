// The order in which a file comes into memory: a part at a time, so that a patch is applied while the part is in the
// processor's cache.
#pragma once

#include <cstdint>

#include "patch.h"

namespace corelocker {

// One part of the file, from where the step before ended, and what is applied to it.
struct Step {
  uint64_t end;    // of the part
  uint32_t first;  // the runs [first, last) lie in it
  uint32_t last;
  uint64_t cut_from;  // of a long run, `first`, the bytes [cut_from, cut_to) lie in it; 0 and 0 otherwise
  uint64_t cut_to;
};

class Steps {
 public:
  // `patch` may be NULL: then there is one step over the whole file.
  Steps(const Patch* patch, uint64_t file_size)
      : patch_(patch), run_count_(patch != nullptr ? patch->run_count() : 0), file_size_(file_size) {}

  // False when the whole file has been visited.
  bool next(Step* step);

 private:
  bool alone(const Run& run) const;
  uint64_t take_cluster();

  const Patch* patch_;
  uint32_t run_count_;
  uint64_t file_size_;
  uint64_t position_ = 0;
  uint32_t run_ = 0;
  uint64_t cut_ = 0;  // bytes of run_ that are done
};

}  // namespace corelocker
