#include "patch.h"

#include <algorithm>
#include <cstring>

#include "bytes.h"
#include "overlap.h"

namespace corelocker {
namespace {

constexpr char kMagic[] = "CLPATCH";
constexpr size_t kMagicSize = 7;
constexpr uint8_t kVersion = '2';
constexpr size_t kHeaderSize = 24;
constexpr size_t kRunSize = 24;
constexpr size_t kKindOffset = 20;
constexpr size_t kReservedOffset = 23;
constexpr size_t kConsumedAtOnce = 16384;

bool valid_kind(const uint8_t* row) {
  const uint8_t kind = row[kKindOffset];
  const uint8_t width = row[kKindOffset + 1];
  const uint8_t constant = row[kKindOffset + 2];
  if (row[kReservedOffset] != 0) return false;
  const bool integer = width == 4 || width == 8;
  switch (kind) {
    case static_cast<uint8_t>(Kind::kReplace):
      return width == 0 && constant == 0;
    case static_cast<uint8_t>(Kind::kXorTop):
      return (width == 16 || width == 32) && constant == 0 && read_u32(row + 8) % (width / 8) == 0;
    case static_cast<uint8_t>(Kind::kNegate):
      return integer && constant >> width == 0;
    case static_cast<uint8_t>(Kind::kPermute):
      return integer && constant == 0;
    default:
      return false;
  }
}

corelocker_error check_run(const uint8_t* row, const Run& run, const Run* previous, uint64_t file_size) {
  if (run.length == 0 || run.count == 0) return CORELOCKER_PATCH_RUN;
  if (run.count == 1 ? run.stride != run.length : run.stride < run.length) return CORELOCKER_PATCH_RUN;
  if (!valid_kind(row)) return CORELOCKER_PATCH_KIND;
  if (previous != nullptr && run.offset <= previous->offset) return CORELOCKER_PATCH_ORDER;
  uint64_t end;
  if (__builtin_add_overflow(run.offset, run.span(), &end)) return CORELOCKER_PATCH_OVERFLOW;
  return end > file_size ? CORELOCKER_PATCH_BOUNDS : CORELOCKER_OK;
}

// The table, then the bits behind the last element.
corelocker_error check_part(const Run& run, const uint8_t* part) {
  const uint64_t entries = run.table_size();
  for (uint64_t i = 0; i < entries; i++) {
    if (part[i] >= entries || part[part[i]] != i) return CORELOCKER_PATCH_TABLE;
  }
  if (run.kind == Kind::kReplace) return CORELOCKER_OK;
  const auto in_last_byte = static_cast<unsigned>(run.size() % run.width) * 8 / run.width;
  const uint8_t last = part[run.payload_size() - 1];
  return in_last_byte != 0 && last >> in_last_byte != 0 ? CORELOCKER_PATCH_PADDING : CORELOCKER_OK;
}

corelocker_error check_parts(const Patch& patch, const uint8_t* payload) {
  for (uint32_t i = 0; i < patch.run_count(); i++) {
    const Run run = patch.run(i);
    const corelocker_error error = check_part(run, payload);
    if (error != CORELOCKER_OK) return error;
    payload += run.payload_size();
  }
  return CORELOCKER_OK;
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

// Copies and wipes a part at a time, which leaves a large payload out of the cache only once.
void consume(uint8_t* __restrict target, uint8_t* __restrict source, size_t size) {
  while (size > 0) {
    const size_t part = std::min(size, kConsumedAtOnce);
    std::memcpy(target, source, part);
    corelocker_wipe(source, part);
    target += part;
    source += part;
    size -= part;
  }
}

}  // namespace

corelocker_error Patch::parse(const uint8_t* bytes, size_t size, uint64_t file_size, Patch* patch) {
  if (size < kHeaderSize) return CORELOCKER_PATCH_TRUNCATED;
  if (std::memcmp(bytes, kMagic, kMagicSize) != 0) return CORELOCKER_PATCH_MAGIC;
  if (bytes[kMagicSize] != kVersion) return CORELOCKER_PATCH_VERSION;
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

  Run previous{};
  uint64_t unclaimed = payload_size;
  bool claimed_too_much = false;
  for (uint32_t i = 0; i < run_count; i++) {
    const Run run = checked.run(i);
    const corelocker_error error =
        check_run(checked.runs_ + kRunSize * i, run, i == 0 ? nullptr : &previous, file_size);
    if (error != CORELOCKER_OK) return error;
    const uint64_t claimed = run.payload_size();
    claimed_too_much |= claimed > unclaimed;
    unclaimed -= std::min(claimed, unclaimed);
    checked.flips_ |= run.kind != Kind::kReplace;
    previous = run;
  }
  if (claimed_too_much || unclaimed != 0) return CORELOCKER_PATCH_PAYLOAD;
  corelocker_error error = check_overlap(checked);
  if (error == CORELOCKER_OK) error = check_parts(checked, bytes + payload_offset);
  if (error == CORELOCKER_OK) *patch = checked;
  return error;
}

Run Patch::run(uint32_t index) const {
  const uint8_t* const row = runs_ + kRunSize * index;
  return {read_u64(row),          read_u32(row + 8),    read_u32(row + 12),  read_u32(row + 16),
          Kind{row[kKindOffset]}, row[kKindOffset + 1], row[kKindOffset + 2]};
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

void apply_run(const Run& run, uint64_t from, uint64_t to, uint8_t* file, uint8_t* part, Payload payload) {
  const Flip flip{run.kind, run.width, run.constant, part};
  const uint8_t* const mask = part + run.table_size();
  const auto change = [&](uint8_t* bytes, uint64_t position, size_t size) {
    if (run.kind != Kind::kReplace) {
      corelocker::flip(flip, bytes, size, mask, run.width == 4 ? position * 2 : position / (run.width / 8));
    } else if (payload == Payload::kConsumed) {
      consume(bytes, part + position, size);
    } else {
      exchange_bytes(bytes, part + position, size);
    }
  };
  if (run.contiguous()) {
    change(file + run.offset + from, from, static_cast<size_t>(to - from));
    return;
  }
  uint8_t* piece = file + run.offset + from / run.length * run.stride;
  for (uint64_t within = from % run.length; from < to; piece += run.stride, within = 0) {
    const uint64_t size = std::min(run.length - within, to - from);
    change(piece + within, from, static_cast<size_t>(size));
    from += size;
  }
}

}  // namespace corelocker
