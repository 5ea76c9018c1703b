// What the C++ tests share: files that vanish, patches made by hand, and the
// options of an open call.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../../sdk/cpp/tools/sha256.h"
#include "corelocker/corelocker.h"
#include "reference.h"

namespace corelocker::tests {

using Digest = std::array<uint8_t, 32>;

inline Digest sha256(const Bytes& bytes) {
  Digest digest;
  EXPECT_EQ(sha256_by_openssl(nullptr, bytes.data(), bytes.size(), digest.data()), 0);
  return digest;
}

inline Bytes read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  return {std::istreambuf_iterator<char>(stream), {}};
}

// Bytes that differ from their neighbors and from those of another seed.
inline Bytes noise(size_t size, uint64_t seed) {
  Bytes bytes(size);
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (uint8_t& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<uint8_t>(state >> 56);
  }
  return bytes;
}

// A file with the given contents that is removed with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const Bytes& contents) {
    const char* const folder = getenv("TMPDIR");
    path_ = std::string(folder != nullptr ? folder : "/tmp") + "/corelocker-XXXXXX";
    const int fd = mkstemp(path_.data());
    EXPECT_GE(fd, 0);
    EXPECT_EQ(write(fd, contents.data(), contents.size()), static_cast<ssize_t>(contents.size()));
    close(fd);
  }
  ~TemporaryFile() { unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

struct TestRun {
  uint64_t offset;
  uint32_t length;
  uint32_t stride;
  uint32_t count;
  uint8_t kind = 0;
  uint8_t width = 0;
  uint8_t constant = 0;
};

// The bytes of `file` at the runs, in run order.
inline Bytes extract(const Bytes& file, const std::vector<TestRun>& runs) {
  Bytes pieces;
  for (const TestRun& run : runs) {
    for (uint64_t i = 0; i < run.count; i++) {
      const auto start = file.begin() + static_cast<ptrdiff_t>(run.offset + i * run.stride);
      pieces.insert(pieces.end(), start, start + run.length);
    }
  }
  return pieces;
}

template <typename Integer>
void append(Bytes& bytes, Integer value) {
  for (size_t i = 0; i < sizeof(value); i++) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

inline Bytes encode_patch(const std::vector<TestRun>& runs, const Bytes& payload) {
  Bytes patch = {'C', 'L', 'P', 'A', 'T', 'C', 'H', '2'};
  append(patch, static_cast<uint32_t>(runs.size()));
  append(patch, uint32_t{0});
  append(patch, static_cast<uint64_t>(payload.size()));
  for (const TestRun& run : runs) {
    append(patch, run.offset);
    append(patch, run.length);
    append(patch, run.stride);
    append(patch, run.count);
    patch.insert(patch.end(), {run.kind, run.width, run.constant, 0});
  }
  patch.insert(patch.end(), payload.begin(), payload.end());
  return patch;
}

// A decrypted section: a patch with its digests.
struct TestPatch {
  Bytes bytes;
  Digest locked_sample;
  Digest restored_sample;
  Digest restored_sha256;

  // `locked` is the file as it ships, `restored` what it is after this patch and those before it.
  TestPatch(const Bytes& patch, const Bytes& locked, const Bytes& restored)
      : bytes(patch),
        locked_sample(sha256(reference::sample(locked, patch))),
        restored_sample(sha256(reference::sample(restored, patch))),
        restored_sha256(sha256(restored)) {}

  // Turns the bytes of `locked` at `runs`, which replace, into those of `original`.
  TestPatch(const Bytes& locked, const Bytes& original, const std::vector<TestRun>& runs)
      : TestPatch(encode_patch(runs, extract(original, runs)), locked, original) {}

  // For patches that are refused before their digests matter.
  static TestPatch of_bytes(const Bytes& patch) {
    TestPatch made(encode_patch({}, {}), Bytes(), Bytes());
    made.bytes = patch;
    return made;
  }
};

// The options of one open call over copies of patches, since an open consumes them.
class Options {
 public:
  explicit Options(std::vector<TestPatch> patches = {}, uint32_t flags = 0,
                   corelocker_full_check full_check = CORELOCKER_FULL_CHECK_DEFAULT)
      : patches_(std::move(patches)) {
    for (TestPatch& patch : patches_) {
      entries.push_back({patch.bytes.data(), patch.bytes.size(), patch.locked_sample.data(),
                         patch.restored_sample.data(), patch.restored_sha256.data()});
    }
    options = {sizeof(corelocker_options),
               flags,
               entries.data(),
               entries.size(),
               CORELOCKER_ANY_SIZE,
               count_sha256,
               this,
               full_check,
               nullptr};
  }
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  const corelocker_options* get() const { return &options; }
  const Bytes& patch_memory(size_t index) const { return patches_[index].bytes; }
  // The largest piece that an open took the SHA-256 of: the file's size when it was read whole.
  size_t largest_hashed() const { return largest_hashed_; }

  std::vector<corelocker_patch> entries;
  corelocker_options options;

 private:
  static int count_sha256(void* context, const void* bytes, size_t size, uint8_t digest[32]) {
    auto* const self = static_cast<Options*>(context);
    self->largest_hashed_ = std::max(self->largest_hashed_, size);
    return sha256_by_openssl(nullptr, bytes, size, digest);
  }

  std::vector<TestPatch> patches_;
  size_t largest_hashed_ = 0;
};

struct Closer {
  void operator()(corelocker_file* file) const { corelocker_close(file); }
};
using FilePointer = std::unique_ptr<corelocker_file, Closer>;

inline Bytes contents(const corelocker_file* file) {
  const auto* const data = static_cast<const uint8_t*>(corelocker_data(file));
  return {data, data + corelocker_size(file)};
}

inline corelocker_error open_path(const char* path, const Options& options, FilePointer& file) {
  corelocker_file* opened = nullptr;
  const corelocker_error error = corelocker_open_path(path, options.get(), &opened);
  file.reset(opened);
  EXPECT_EQ(file != nullptr, error == CORELOCKER_OK);
  return error;
}

}  // namespace corelocker::tests
