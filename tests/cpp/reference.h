// docs/formats.md once more, as plainly as possible: what a valid patch does to a file, and the bytes of a sample.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace corelocker::tests {

using Bytes = std::vector<uint8_t>;

namespace reference {

inline void require(bool condition) {
  if (!condition) std::abort();
}

inline uint64_t read(const uint8_t* bytes, int size) {
  uint64_t value = 0;
  for (int i = size; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

struct Run {
  uint64_t offset, length, stride, count;
  unsigned kind, width, constant;
};

inline std::vector<Run> runs_of(const Bytes& patch) {
  std::vector<Run> runs(read(&patch[8], 4));
  const uint8_t* row = patch.data() + 24;
  for (Run& run : runs) {
    run = {read(row, 8), read(row + 8, 4), read(row + 12, 4), read(row + 16, 4), row[20], row[21], row[22]};
    row += 24;
  }
  return runs;
}

// The file after a valid patch. Aborts where a byte is written twice or the parts do not add up.
inline Bytes apply(Bytes file, const Bytes& patch) {
  const std::vector<Run> runs = runs_of(patch);
  const uint8_t* payload = patch.data() + 24 + 24 * runs.size();
  std::vector<bool> written(file.size());
  for (const Run& run : runs) {
    std::vector<uint64_t> places;  // of the bytes, in the order of the pieces
    for (uint64_t piece = 0; piece < run.count; piece++) {
      for (uint64_t i = 0; i < run.length; i++) places.push_back(run.offset + piece * run.stride + i);
    }
    for (const uint64_t place : places) {
      require(place < file.size() && !written[place]);
      written[place] = true;
    }
    if (run.kind == 0) {
      for (const uint64_t place : places) file[place] = *payload++;
      continue;
    }
    const uint8_t* const table = payload;
    if (run.kind == 3) payload += 1u << run.width;
    const uint64_t elements = places.size() * 8 / run.width;
    for (uint64_t i = 0; i < elements; i++) {
      if ((payload[i / 8] >> i % 8 & 1) == 0) continue;
      if (run.kind == 1) {
        file[places[(i + 1) * run.width / 8 - 1]] ^= 0x80;
        continue;
      }
      uint8_t& byte = file[places[i * run.width / 8]];
      const unsigned shift = run.width == 4 && i % 2 == 1 ? 4 : 0;
      const unsigned ones = (1u << run.width) - 1;
      const unsigned element = byte >> shift & ones;
      const unsigned changed = run.kind == 2 ? (run.constant - element) & ones : table[element];
      byte = static_cast<uint8_t>((byte & ~(ones << shift)) | changed << shift);
    }
    payload += (elements + 7) / 8;
  }
  require(payload == patch.data() + patch.size());
  return file;
}

// What the sample of a file with the patch's runs is the SHA-256 of; `at` gives the byte at a position.
template <typename At>
Bytes sample(uint64_t file_size, At at, const Bytes& patch) {
  const std::string label = "corelocker sample v1";
  Bytes bytes(label.begin(), label.end());
  for (int i = 0; i < 8; i++) bytes.push_back(static_cast<uint8_t>(file_size >> 8 * i));
  const auto add = [&](uint64_t position, uint64_t length) {
    for (uint64_t i = 0; i < length; i++) bytes.push_back(at(position + i));
  };
  if (file_size <= 4096) {
    add(0, file_size);
  } else {
    for (uint64_t i = 0; i < 64; i++) add(i * (file_size - 64) / 63, 64);
  }
  for (const Run& run : runs_of(patch)) {
    const uint64_t end = std::min<uint64_t>(run.length, 64);
    add(run.offset, end);
    if (run.count > 1 || run.length > 64) add(run.offset + (run.count - 1) * run.stride + run.length - end, end);
  }
  return bytes;
}

inline Bytes sample(const Bytes& file, const Bytes& patch) {
  return sample(file.size(), [&](uint64_t position) { return file[position]; }, patch);
}

}  // namespace reference
}  // namespace corelocker::tests
