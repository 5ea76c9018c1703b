// Changes elements of a file in place: the kinds of runs that are their own inverse (docs/formats.md, "Patch").
#pragma once

#include <cstddef>
#include <cstdint>

namespace corelocker {

enum class Kind : uint8_t { kReplace = 0, kXorTop = 1, kNegate = 2, kPermute = 3 };

// What a run does to an element whose bit in the mask is 1.
struct Flip {
  Kind kind;             // not kReplace
  uint8_t width;         // bits of an element, as the kind allows
  uint8_t constant;      // of kNegate
  const uint8_t* table;  // of kPermute: 2^width bytes
};

// Changes the elements in `size` bytes, a whole number of them. Their bits in `mask` begin at bit `first`; nothing
// behind their last bit's byte is read. `bytes` needs no alignment.
void flip(const Flip& flip, uint8_t* bytes, size_t size, const uint8_t* mask, uint64_t first);

}  // namespace corelocker
