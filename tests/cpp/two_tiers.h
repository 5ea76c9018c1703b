// A small locked file that several tests use.
#pragma once

#include <algorithm>
#include <vector>

#include "support.h"

namespace corelocker::tests {

constexpr size_t kFileSize = 100'000;

// A locked file of two tiers: `full` differs from `plus` and `plus` from
// `locked`, partly at the same bytes.
struct TwoTiers {
  const std::vector<TestRun> plus_runs = {{10, 4, 12, 100}, {14, 4, 12, 50}, {50'000, 5'000, 5'000, 1}};
  const std::vector<TestRun> full_runs = {{0, 3, 3, 1}, {52'000, 1'000, 1'500, 3}, {kFileSize - 1, 1, 1, 1}};
  const Bytes original = noise(kFileSize, 1);
  const Bytes plus = overwritten(original, full_runs, 2);
  const Bytes locked = overwritten(plus, plus_runs, 3);
  const TestPatch to_plus{locked, plus, plus_runs};
  const TestPatch to_full{locked, original, full_runs};
  const TemporaryFile file{locked};

  static Bytes overwritten(Bytes bytes, const std::vector<TestRun>& runs, uint64_t seed) {
    const Bytes fill = noise(bytes.size(), seed);
    for (const TestRun& run : runs) {
      for (uint64_t i = 0; i < run.count; i++) {
        const size_t start = run.offset + i * run.stride;
        std::copy_n(fill.data() + start, run.length, bytes.data() + start);
      }
    }
    return bytes;
  }
};

}  // namespace corelocker::tests
