#include "patch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace corelocker {
namespace {

constexpr char kMagic[] = "CLPATCH1";
constexpr size_t kHeaderSize = 24;
constexpr size_t kRunSize = 20;

uint32_t read_u32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

uint64_t read_u64(const uint8_t* p) { return uint64_t{read_u32(p)} | uint64_t{read_u32(p + 4)} << 32; }

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

corelocker_error check_run(const Run& run, const Run* previous, uint64_t file_size) {
  if (run.length == 0 || run.count == 0) return CORELOCKER_PATCH_RUN;
  if (run.count == 1 ? run.stride != run.length : run.stride < run.length) return CORELOCKER_PATCH_RUN;
  if (previous != nullptr && run.offset <= previous->offset) return CORELOCKER_PATCH_ORDER;
  uint64_t end;
  if (__builtin_add_overflow(run.offset, run.span(), &end)) return CORELOCKER_PATCH_OVERFLOW;
  return end > file_size ? CORELOCKER_PATCH_BOUNDS : CORELOCKER_OK;
}

// Words at a time; the two sides never overlap, which lets the compiler use wider ones.
void exchange_bytes(uint8_t* __restrict a, uint8_t* __restrict b, size_t size) {
  for (; size >= 8; a += 8, b += 8, size -= 8) {
    uint64_t x;
    uint64_t y;
    std::memcpy(&x, a, 8);
    std::memcpy(&y, b, 8);
    std::memcpy(a, &y, 8);
    std::memcpy(b, &x, 8);
  }
  for (; size > 0; a++, b++, size--) std::swap(*a, *b);
}

}  // namespace

corelocker_error Patch::parse(const uint8_t* bytes, size_t size, uint64_t file_size, Patch* patch) {
  if (size < kHeaderSize) return CORELOCKER_PATCH_TRUNCATED;
  if (std::memcmp(bytes, kMagic, 8) != 0) return CORELOCKER_PATCH_MAGIC;
  const uint32_t run_count = read_u32(bytes + 8);
  if (read_u32(bytes + 12) != 0) return CORELOCKER_PATCH_RESERVED;
  const uint64_t payload_size = read_u64(bytes + 16);
  if (run_count > (size - kHeaderSize) / kRunSize) return CORELOCKER_PATCH_TRUNCATED;
  const size_t payload_offset = kHeaderSize + kRunSize * run_count;
  if (payload_size > size - payload_offset) return CORELOCKER_PATCH_TRUNCATED;
  if (payload_size < size - payload_offset) return CORELOCKER_PATCH_TRAILING;

  Patch checked;
  checked.runs_ = bytes + kHeaderSize;
  checked.run_count_ = run_count;
  checked.payload_offset_ = payload_offset;
  checked.payload_size_ = static_cast<size_t>(payload_size);

  Run previous{};
  uint64_t unclaimed = payload_size;
  bool claimed_too_much = false;
  for (uint32_t i = 0; i < run_count; i++) {
    const Run run = checked.run(i);
    const corelocker_error error = check_run(run, i == 0 ? nullptr : &previous, file_size);
    if (error != CORELOCKER_OK) return error;
    const uint64_t claimed = uint64_t{run.length} * run.count;
    claimed_too_much |= claimed > unclaimed;
    unclaimed -= std::min(claimed, unclaimed);
    previous = run;
  }
  if (claimed_too_much || unclaimed != 0) return CORELOCKER_PATCH_PAYLOAD;
  const corelocker_error error = check_overlap(checked);
  if (error == CORELOCKER_OK) *patch = checked;
  return error;
}

Run Patch::run(uint32_t index) const {
  const uint8_t* const p = runs_ + kRunSize * index;
  return {read_u64(p), read_u32(p + 8), read_u32(p + 12), read_u32(p + 16)};
}

void Patch::exchange(uint8_t* file, uint8_t* payload) const {
  for (uint32_t i = 0; i < run_count_; i++) {
    const Run run = this->run(i);
    uint8_t* piece = file + run.offset;
    for (uint32_t left = run.count; left > 0; left--, piece += run.stride, payload += run.length) {
      exchange_bytes(piece, payload, run.length);
    }
  }
}

void Patch::mark_pages(size_t lead, size_t page_size, uint8_t* bits) const {
  for (uint32_t i = 0; i < run_count_; i++) {
    const Run run = this->run(i);
    size_t start = lead + static_cast<size_t>(run.offset);
    for (uint32_t left = run.count; left > 0; left--, start += run.stride) {
      const size_t last = (start + run.length - 1) / page_size;
      for (size_t page = start / page_size; page <= last; page++) {
        bits[page / 8] |= static_cast<uint8_t>(1u << page % 8);
      }
    }
  }
}

}  // namespace corelocker
