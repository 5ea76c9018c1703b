#include "steps.h"

#include <algorithm>

namespace corelocker {
namespace {

// Fits the second-level cache beside the patch. A multiple of the bytes that share a byte of a mask.
constexpr uint64_t kPart = 256 << 10;

}  // namespace

// Whether the run is one piece that no other run reaches into, so that it can be cut anywhere.
bool Steps::alone(const Run& run) const {
  return run.contiguous() && (run_ + 1 == run_count_ || patch_->run(run_ + 1).offset >= run.end());
}

// Passes the runs that are interleaved with the next one, and returns where the last of them ends.
uint64_t Steps::take_cluster() {
  uint64_t reach = patch_->run(run_++).end();
  while (run_ < run_count_ && patch_->run(run_).offset < reach) reach = std::max(reach, patch_->run(run_++).end());
  return reach;
}

bool Steps::next(Step* step) {
  if (run_ == run_count_ && position_ == file_size_) return false;
  *step = {position_, run_, run_, 0, 0};
  while (run_ < run_count_ && step->end - position_ < kPart) {
    const Run run = patch_->run(run_);
    if (!alone(run) || run.size() <= kPart) {
      step->end = take_cluster();
      step->last = run_;
      continue;
    }
    if (step->last > step->first) break;
    step->cut_from = cut_;
    step->cut_to = std::min(cut_ + kPart, run.size());
    step->end = run.offset + step->cut_to;
    cut_ = step->cut_to < run.size() ? step->cut_to : 0;
    if (cut_ == 0) run_++;
    position_ = step->end;
    return true;
  }
  if (run_ == run_count_) step->end = file_size_;
  position_ = step->end;
  return true;
}

}  // namespace corelocker
