#include "sample.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "bytes.h"

namespace corelocker {
namespace {

constexpr char kLabel[] = "corelocker sample v1";
constexpr size_t kLabelSize = sizeof(kLabel) - 1;
constexpr size_t kHeadSize = kLabelSize + 8;
constexpr uint64_t kShortFile = 4096;
constexpr uint64_t kWindows = 64;
constexpr uint64_t kWindow = 64;
constexpr uint32_t kEnd = 64;

// floor(index * (file_size - 64) / 63) without overflow.
uint64_t window_position(uint64_t index, uint64_t file_size) {
  const uint64_t room = file_size - kWindow;
  return index * (room / (kWindows - 1)) + index * (room % (kWindows - 1)) / (kWindows - 1);
}

}  // namespace

corelocker_error Sample::prepare(const Patch& patch, uint64_t file_size) {
  const uint64_t windows = file_size <= kShortFile ? 1 : kWindows;
  const uint64_t most_pieces = windows + uint64_t{2} * patch.run_count();
  const uint64_t most_bytes = kHeadSize + kShortFile + uint64_t{2} * kEnd * patch.run_count();
  if (most_bytes > SIZE_MAX / 2 || most_pieces > SIZE_MAX / sizeof(Piece)) return CORELOCKER_MEMORY;
  pieces_ = static_cast<Piece*>(std::malloc(static_cast<size_t>(most_pieces) * sizeof(Piece)));
  bytes_ = static_cast<uint8_t*>(std::malloc(2 * static_cast<size_t>(most_bytes)));
  if (pieces_ == nullptr || bytes_ == nullptr) return CORELOCKER_MEMORY;

  std::memcpy(bytes_, kLabel, kLabelSize);
  write_u64(bytes_ + kLabelSize, file_size);
  size_ = kHeadSize;
  if (file_size <= kShortFile) {
    add(0, file_size);
  } else {
    for (uint64_t i = 0; i < kWindows; i++) add(window_position(i, file_size), kWindow);
  }
  const size_t window_count = piece_count_;
  for (uint32_t i = 0; i < patch.run_count(); i++) {
    const Run run = patch.run(i);
    const uint32_t end = std::min(run.length, kEnd);
    add(run.offset, end);
    if (run.count > 1 || run.length > kEnd) add(run.end() - end, end);
  }
  std::memcpy(bytes_ + size_, bytes_, kHeadSize);

  // Interleaved runs end out of order.
  Piece* const ends = pieces_ + window_count;
  const auto before = [](const Piece& a, const Piece& b) { return a.position < b.position; };
  if (!std::is_sorted(ends, pieces_ + piece_count_, before)) std::sort(ends, pieces_ + piece_count_, before);
  parts_[0] = {pieces_, window_count, 0, 0};
  parts_[1] = {ends, piece_count_ - window_count, 0, 0};
  return CORELOCKER_OK;
}

void Sample::add(uint64_t position, uint64_t length) {
  const auto bytes = static_cast<size_t>(length);
  pieces_[piece_count_++] = {position, size_, bytes};
  size_ += bytes;
}

// Calls copy(position, length, place in the sample) for what lies in [from, to).
template <typename Copy>
corelocker_error Sample::gather(const Pieces& pieces, size_t* next, uint64_t from, uint64_t to, Copy copy) {
  for (size_t i = *next; i < pieces.count && pieces.first[i].position < to; i++) {
    const Piece& piece = pieces.first[i];
    const uint64_t start = std::max(from, piece.position);
    const uint64_t end = std::min(to, piece.position + piece.length);
    if (start >= end) continue;
    const auto skipped = static_cast<size_t>(start - piece.position);
    const corelocker_error error = copy(start, static_cast<size_t>(end - start), piece.target + skipped);
    if (error != CORELOCKER_OK) return error;
  }
  // A piece that reaches over `to` waits for the next call.
  while (*next < pieces.count && pieces.first[*next].position + pieces.first[*next].length <= to) ++*next;
  return CORELOCKER_OK;
}

corelocker_error Sample::gather_locked(uint64_t from, uint64_t to, const Mapping& file) {
  for (Pieces& pieces : parts_) {
    const corelocker_error error =
        gather(pieces, &pieces.next_locked, from, to, [&](uint64_t position, size_t length, size_t place) {
          return file.copy_out(position, length, bytes_ + place);
        });
    if (error != CORELOCKER_OK) return error;
  }
  return CORELOCKER_OK;
}

void Sample::gather_restored(uint64_t from, uint64_t to, const Mapping& file) {
  for (Pieces& pieces : parts_) {
    gather(pieces, &pieces.next_restored, from, to, [&](uint64_t position, size_t length, size_t place) {
      std::memcpy(bytes_ + size_ + place, bytes_ + place, length);
      file.copy_own(position, length, bytes_ + size_ + place);
      return CORELOCKER_OK;
    });
  }
}

void Sample::free() {
  // The bytes of restored weights and the places of what is locked are secret.
  corelocker_wipe(pieces_, piece_count_ * sizeof(Piece));
  corelocker_wipe(bytes_, 2 * size_);
  std::free(pieces_);
  std::free(bytes_);
}

}  // namespace corelocker
