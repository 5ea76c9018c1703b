#include "sample.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "bytes.h"

namespace corelocker {
namespace {

constexpr char kLabel[] = "corelocker sample v1";
constexpr size_t kLabelSize = sizeof(kLabel) - 1;
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
  const uint64_t most_bytes = kLabelSize + 8 + kShortFile + uint64_t{2} * kEnd * patch.run_count();
  if (most_bytes > SIZE_MAX || most_pieces > SIZE_MAX / sizeof(Piece)) return CORELOCKER_MEMORY;
  pieces_ = static_cast<Piece*>(std::malloc(static_cast<size_t>(most_pieces) * sizeof(Piece)));
  bytes_ = static_cast<uint8_t*>(std::malloc(static_cast<size_t>(most_bytes)));
  if (pieces_ == nullptr || bytes_ == nullptr) return CORELOCKER_MEMORY;

  std::memcpy(bytes_, kLabel, kLabelSize);
  write_u64(bytes_ + kLabelSize, file_size);
  size_ = kLabelSize + 8;
  if (file_size <= kShortFile) {
    add(0, file_size);
  } else {
    for (uint64_t i = 0; i < kWindows; i++) add(window_position(i, file_size), kWindow);
  }
  for (uint32_t i = 0; i < patch.run_count(); i++) {
    const Run run = patch.run(i);
    const uint32_t end = std::min(run.length, kEnd);
    add(run.offset, end);
    if (run.count > 1 || run.length > kEnd) add(run.end() - end, end);
  }
  std::sort(pieces_, pieces_ + piece_count_, [](const Piece& a, const Piece& b) { return a.position < b.position; });
  return CORELOCKER_OK;
}

void Sample::add(uint64_t position, uint64_t length) {
  const auto bytes = static_cast<size_t>(length);
  pieces_[piece_count_++] = {position, size_, bytes};
  size_ += bytes;
}

corelocker_error Sample::gather(uint64_t from, uint64_t to, const Mapping& file) {
  for (size_t i = next_; i < piece_count_ && pieces_[i].position < to; i++) {
    const Piece& piece = pieces_[i];
    const uint64_t start = std::max(from, piece.position);
    const uint64_t end = std::min(to, piece.position + piece.length);
    if (start >= end) continue;
    uint8_t* const target = bytes_ + piece.target + (start - piece.position);
    const corelocker_error error = file.copy_out(start, static_cast<size_t>(end - start), target);
    if (error != CORELOCKER_OK) return error;
  }
  // A piece that reaches over `to` waits for the next call.
  while (next_ < piece_count_ && pieces_[next_].position + pieces_[next_].length <= to) next_++;
  return CORELOCKER_OK;
}

void Sample::gather_changed(const Mapping& file) {
  for (const Piece* piece = pieces_; piece < pieces_ + piece_count_; piece++) {
    file.copy_own(piece->position, piece->length, bytes_ + piece->target);
  }
}

void Sample::free() {
  // The bytes of restored weights and the places of what is locked are secret.
  corelocker_wipe(pieces_, piece_count_ * sizeof(Piece));
  corelocker_wipe(bytes_, size_);
  std::free(pieces_);
  std::free(bytes_);
}

}  // namespace corelocker
