#include "flip.h"

#include <cstring>

#include "bytes.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are handled in the order that the format stores");

namespace corelocker {
namespace {

// Vectors of GCC and Clang: SSE2 on x86-64, NEON on arm64.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Halves8 = uint16_t __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));

template <typename Vector>
Vector load(const uint8_t* p) {
  Vector v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename Vector>
void store(uint8_t* p, Vector v) {
  std::memcpy(p, &v, sizeof(v));
}

// All ones in the lanes whose bit of `bits` is in `mask`, else 0.
template <typename Vector>
Vector lanes(Vector mask, Vector bits) {
  return reinterpret_cast<Vector>((mask & bits) == bits);
}

// Each struct below handles elements of one kind and width, which have `kElement` bytes: `block` changes 64 elements by
// 64 bits, `some` those in `size` bytes, fewer than 64.

// NOLINTBEGIN(readability-convert-member-functions-to-static): other kinds have a constant or a table.
struct XorTop32 {
  static constexpr size_t kElement = 4;

  void block(uint8_t* bytes, uint64_t mask) const {
    for (int half = 0; half < 2; half++, mask >>= 32, bytes += 128) {
      const auto word = static_cast<uint32_t>(mask);
      const Words4 all = {word, word, word, word};
      Words4 bits = {1, 2, 4, 8};
      for (size_t i = 0; i < 8; i++, bits <<= 4) {
        uint8_t* const p = bytes + 16 * i;
        store(p, load<Words4>(p) ^ (lanes(all, bits) & 0x80000000u));
      }
    }
  }
  void some(uint8_t* bytes, size_t size, uint64_t mask) const {
    for (size_t i = 3; i < size; i += 4, mask >>= 1) bytes[i] ^= static_cast<uint8_t>(mask << 7);
  }
};

struct XorTop16 {
  static constexpr size_t kElement = 2;

  void block(uint8_t* bytes, uint64_t mask) const {
    for (int quarter = 0; quarter < 4; quarter++, mask >>= 16, bytes += 32) {
      const auto half = static_cast<uint16_t>(mask);
      const Halves8 all = {half, half, half, half, half, half, half, half};
      const Halves8 low = {1, 2, 4, 8, 16, 32, 64, 128};
      store(bytes, load<Halves8>(bytes) ^ (lanes(all, low) & uint16_t{0x8000}));
      store(bytes + 16, load<Halves8>(bytes + 16) ^ (lanes<Halves8>(all, low << 8) & uint16_t{0x8000}));
    }
  }
  void some(uint8_t* bytes, size_t size, uint64_t mask) const {
    for (size_t i = 1; i < size; i += 2, mask >>= 1) bytes[i] ^= static_cast<uint8_t>(mask << 7);
  }
};

// NOLINTEND(readability-convert-member-functions-to-static)

// Two masks of 8 bits, each in 8 lanes.
Bytes16 spread_8(uint64_t mask) {
  const uint64_t both[2] = {(mask & 0xFF) * 0x0101010101010101u, (mask >> 8 & 0xFF) * 0x0101010101010101u};
  return load<Bytes16>(reinterpret_cast<const uint8_t*>(both));
}

// Four masks of 8 bits, each in 4 lanes.
Bytes16 spread_4(uint64_t mask) {
  const Words4 four = {static_cast<uint32_t>(mask & 0xFF), static_cast<uint32_t>(mask >> 8 & 0xFF),
                       static_cast<uint32_t>(mask >> 16 & 0xFF), static_cast<uint32_t>(mask >> 24 & 0xFF)};
  return reinterpret_cast<Bytes16>(four * 0x01010101u);
}

constexpr Bytes16 kEach8 = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
constexpr Bytes16 kLow4 = {1, 4, 16, 64, 1, 4, 16, 64, 1, 4, 16, 64, 1, 4, 16, 64};
constexpr Bytes16 kHigh4 = {2, 8, 32, 128, 2, 8, 32, 128, 2, 8, 32, 128, 2, 8, 32, 128};

struct Negate8 {
  static constexpr size_t kElement = 1;
  uint8_t constant;

  void block(uint8_t* bytes, uint64_t mask) const {
    for (int i = 0; i < 4; i++, mask >>= 16, bytes += 16) {
      const auto old = load<Bytes16>(bytes);
      const Bytes16 changed = constant - old;
      store(bytes, old ^ ((old ^ changed) & lanes(spread_8(mask), kEach8)));
    }
  }
  void some(uint8_t* bytes, size_t size, uint64_t mask) const {
    for (size_t i = 0; i < size; i++, mask >>= 1) {
      if ((mask & 1) != 0) bytes[i] = static_cast<uint8_t>(constant - bytes[i]);
    }
  }
};

struct Negate4 {
  static constexpr size_t kElement = 0;  // two in a byte
  uint8_t constant;

  void block(uint8_t* bytes, uint64_t mask) const {
    const auto high_constant = static_cast<uint8_t>(constant << 4);
    for (int i = 0; i < 2; i++, mask >>= 32, bytes += 16) {
      const auto old = load<Bytes16>(bytes);
      const Bytes16 all = spread_4(mask);
      // The low nibble of a difference depends on low nibbles alone, and the high one is kept from borrowing.
      const Bytes16 changed = ((constant - old) & uint8_t{0x0F}) | (high_constant - (old & uint8_t{0xF0}));
      const Bytes16 chosen = (lanes(all, kLow4) & uint8_t{0x0F}) | (lanes(all, kHigh4) & uint8_t{0xF0});
      store(bytes, old ^ ((old ^ changed) & chosen));
    }
  }
  void some(uint8_t* bytes, size_t size, uint64_t mask) const {
    for (size_t i = 0; i < size; i++, mask >>= 2) {
      unsigned low = bytes[i] & 0x0Fu;
      unsigned high = bytes[i] >> 4u;
      if ((mask & 1) != 0) low = constant - low;
      if ((mask & 2) != 0) high = constant - high;
      bytes[i] = static_cast<uint8_t>((low & 0x0Fu) | high << 4u);
    }
  }
};

struct Permute8 {
  static constexpr size_t kElement = 1;
  const uint8_t* table;

  void block(uint8_t* bytes, uint64_t mask) const { some(bytes, 64, mask); }
  void some(uint8_t* bytes, size_t size, uint64_t mask) const {
    for (size_t i = 0; i < size; i++, mask >>= 1) {
      const auto chosen = static_cast<uint8_t>(-(mask & 1));
      bytes[i] ^= static_cast<uint8_t>((bytes[i] ^ table[bytes[i]]) & chosen);
    }
  }
};

struct Permute4 {
  static constexpr size_t kElement = 0;
  const uint8_t* table;

  void block(uint8_t* bytes, uint64_t mask) const { some(bytes, 32, mask); }
  void some(uint8_t* bytes, size_t size, uint64_t mask) const {
    for (size_t i = 0; i < size; i++, mask >>= 2) {
      const uint8_t old = bytes[i];
      const auto changed = static_cast<uint8_t>(table[old & 0x0F] | table[old >> 4] << 4);
      const auto chosen = static_cast<uint8_t>((-(mask & 1) & 0x0F) | (-(mask >> 1 & 1) & 0xF0));
      bytes[i] = static_cast<uint8_t>(old ^ ((old ^ changed) & chosen));
    }
  }
};

// `count` bits from bit `first` on, at most 64.
uint64_t read_bits(const uint8_t* mask, uint64_t first, unsigned count) {
  const uint8_t* const p = mask + first / 8;
  const auto skipped = static_cast<unsigned>(first % 8);
  const unsigned bytes = (skipped + count + 7) / 8;
  if (bytes == 8) return read_u64(p) >> skipped;
  uint64_t bits = 0;
  for (unsigned i = 0; i < bytes && i < 8; i++) bits |= uint64_t{p[i]} << (8 * i);
  bits >>= skipped;
  if (bytes == 9) bits |= uint64_t{p[8]} << (64 - skipped);
  return bits;
}

template <typename Elements>
void flip_all(const Elements& elements, uint8_t* bytes, size_t size, const uint8_t* mask, uint64_t first) {
  constexpr size_t kBlock = Elements::kElement == 0 ? 32 : 64 * Elements::kElement;
  for (; size >= kBlock; bytes += kBlock, size -= kBlock, first += 64) {
    elements.block(bytes, read_bits(mask, first, 64));
  }
  if (size == 0) return;
  const size_t count = Elements::kElement == 0 ? 2 * size : size / Elements::kElement;
  elements.some(bytes, size, read_bits(mask, first, static_cast<unsigned>(count)));
}

}  // namespace

void flip(const Flip& flip, uint8_t* bytes, size_t size, const uint8_t* mask, uint64_t first) {
  const auto all = [&](const auto& elements) { flip_all(elements, bytes, size, mask, first); };
  switch (flip.kind) {
    case Kind::kReplace:
      break;
    case Kind::kXorTop:
      flip.width == 32 ? all(XorTop32{}) : all(XorTop16{});
      break;
    case Kind::kNegate:
      flip.width == 8 ? all(Negate8{flip.constant}) : all(Negate4{flip.constant});
      break;
    case Kind::kPermute:
      flip.width == 8 ? all(Permute8{flip.table}) : all(Permute4{flip.table});
      break;
  }
}

}  // namespace corelocker
