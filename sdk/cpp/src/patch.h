// A patch, checked and applied in place (docs/formats.md, "Patch").
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"
#include "flip.h"

namespace corelocker {

// `count` pieces of `length` bytes, `stride` apart, the first at `offset`; all in bytes of the file.
struct Run {
  uint64_t offset;
  uint32_t length;
  uint32_t stride;
  uint32_t count;
  Kind kind;
  uint8_t width;
  uint8_t constant;

  uint64_t span() const { return uint64_t{stride} * (count - 1) + length; }
  uint64_t end() const { return offset + span(); }
  uint64_t size() const { return uint64_t{length} * count; }
  bool contiguous() const { return stride == length; }
  uint64_t last_piece() const { return offset + uint64_t{stride} * (count - 1); }

  uint64_t table_size() const { return kind == Kind::kPermute ? uint64_t{1} << width : 0; }
  // One bit for each element: so many bytes of the file share a byte of the mask as an element has bits.
  uint64_t mask_size() const { return kind == Kind::kReplace ? 0 : size() / width + (size() % width != 0); }
  uint64_t payload_size() const { return kind == Kind::kReplace ? size() : table_size() + mask_size(); }
};

// A view of a patch that lies in the caller's memory. Only `parse` gives it contents, and only when every rule of the
// format holds, so the other functions trust the runs.
class Patch {
 public:
  static corelocker_error parse(const uint8_t* bytes, size_t size, uint64_t file_size, Patch* patch);

  uint32_t run_count() const { return run_count_; }
  Run run(uint32_t index) const;
  size_t payload_offset() const { return payload_offset_; }
  bool flips() const { return flips_; }

  // Sets the bit of every page that a piece touches. Page 0 begins `lead` bytes before the file's first byte.
  void mark_pages(size_t lead, size_t page_size, uint8_t* bits) const;

 private:
  const uint8_t* runs_ = nullptr;
  uint32_t run_count_ = 0;
  size_t payload_offset_ = 0;
  bool flips_ = false;
};

// What becomes of the payload of a run that replaces.
enum class Payload : uint8_t {
  kConsumed,  // it is wiped, while it is in the processor's cache
  kExchanged  // it becomes the bytes that were in the file, so that applying the run again undoes it
};

// Applies the bytes [from, to) of a run, counted along its pieces, both at whole elements; `part` is the run's part of
// the payload.
void apply_run(const Run& run, uint64_t from, uint64_t to, uint8_t* file, uint8_t* part, Payload payload);

}  // namespace corelocker
