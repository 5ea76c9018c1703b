#include "overlap.h"

#include <algorithm>
#include <cstdlib>

namespace corelocker {
namespace {

// What the overlap check remembers of a run while it walks through a cluster.
struct Cursor {
  uint64_t start;  // of the next piece; in `apart_by_residue`, of the first piece modulo the stride
  uint32_t run;
  uint32_t left;  // pieces from `start` on; in `apart_by_residue`, the length of a piece
};

bool later(const Cursor& a, const Cursor& b) { return a.start > b.start; }

// Whether the runs [first, last) share one stride and lie apart modulo it, as the filters of a depthwise convolution
// do. Then they cannot overlap; false says nothing. Saves walking through every piece of a large tensor.
bool apart_by_residue(const Patch& patch, uint32_t first, uint32_t last, Cursor* scratch) {
  uint32_t stride = 0;
  for (uint32_t i = first; i < last; i++) {
    const Run run = patch.run(i);
    if (run.count == 1) continue;
    if (stride != 0 && run.stride != stride) return false;
    stride = run.stride;
  }
  for (uint32_t i = first; i < last; i++) {
    const Run run = patch.run(i);
    if (run.length > stride) return false;
    scratch[i - first] = {run.offset % stride, i, run.length};
  }
  Cursor* const end = scratch + (last - first);
  std::sort(scratch, end, [](const Cursor& a, const Cursor& b) { return a.start < b.start; });
  for (Cursor* c = scratch; c + 1 < end; c++) {
    if (c->start + c->left > c[1].start) return false;
  }
  return end[-1].start + end[-1].left <= scratch->start + stride;
}

// Whether no two pieces of the runs [first, last) share a byte, by visiting the pieces in file order. A run's pieces
// are taken together as far as no other run has a piece, so the steps are at most the pieces and usually far fewer.
bool apart_by_merging(const Patch& patch, uint32_t first, uint32_t last, Cursor* heap) {
  size_t waiting = 0;
  uint32_t next = first;
  while (waiting > 0 || next < last) {
    Cursor cursor;
    if (next < last && (waiting == 0 || patch.run(next).offset <= heap[0].start)) {
      const Run run = patch.run(next);
      cursor = {run.offset, next, run.count};
      next++;
    } else {
      cursor = heap[0];
      std::pop_heap(heap, heap + waiting--, later);
    }
    uint64_t bound = UINT64_MAX;
    if (waiting > 0) bound = heap[0].start;
    if (next < last) bound = std::min(bound, patch.run(next).offset);

    const Run run = patch.run(cursor.run);
    const uint64_t room = bound - cursor.start;  // no other piece starts before `start`, so this does not wrap
    const uint64_t taken = std::min<uint64_t>(cursor.left, room / run.stride + (room % run.stride != 0));
    if (taken == 0 || (taken - 1) * run.stride + run.length > room) return false;
    if (taken < cursor.left) {
      heap[waiting++] = {cursor.start + taken * run.stride, cursor.run, cursor.left - static_cast<uint32_t>(taken)};
      std::push_heap(heap, heap + waiting, later);
    }
  }
  return true;
}

// Calls check(first, last) for each cluster: neighboring runs whose extents are connected. Different clusters have no
// byte in common, and a run alone in its cluster overlaps with nothing.
template <typename Check>
bool for_each_cluster(const Patch& patch, Check check) {
  uint32_t first = 0;
  uint64_t reach = 0;
  for (uint32_t i = 0; i < patch.run_count(); i++) {
    const Run run = patch.run(i);
    if (run.offset >= reach) {
      if (i - first > 1 && !check(first, i)) return false;
      first = i;
    }
    reach = std::max(reach, run.offset + run.span());
  }
  return patch.run_count() - first <= 1 || check(first, patch.run_count());
}

}  // namespace

corelocker_error check_overlap(const Patch& patch) {
  uint32_t largest = 0;
  for_each_cluster(patch, [&](uint32_t first, uint32_t last) {
    largest = std::max(largest, last - first);
    return true;
  });
  if (largest == 0) return CORELOCKER_OK;
  auto* scratch = static_cast<Cursor*>(std::malloc(largest * sizeof(Cursor)));
  if (scratch == nullptr) return CORELOCKER_MEMORY;
  const bool apart = for_each_cluster(patch, [&](uint32_t first, uint32_t last) {
    return apart_by_residue(patch, first, last, scratch) || apart_by_merging(patch, first, last, scratch);
  });
  corelocker_wipe(scratch, largest * sizeof(Cursor));
  std::free(scratch);
  return apart ? CORELOCKER_OK : CORELOCKER_PATCH_OVERLAP;
}

}  // namespace corelocker
