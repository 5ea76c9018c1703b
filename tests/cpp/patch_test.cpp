// The patch format: verdicts, and what a valid patch does to a file.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "support.h"

namespace corelocker::tests {
namespace {

TEST(Patch, IsAppliedAboveFourGigabytes) {
  constexpr uint64_t kHuge = 5'000'000'000;
  const TemporaryFile sparse{Bytes()};
  ASSERT_EQ(truncate(sparse.path(), kHuge), 0);
  const std::vector<TestRun> runs = {
      {4'294'967'290, 12, 12, 1}, {4'500'000'000, 4, 100'000'000, 5}, {kHuge - 1, 1, 1, 1}};
  const Bytes payload = noise(12 + 20 + 1, 4);
  TestPatch patch = TestPatch::of_bytes(encode_patch(runs, payload));
  std::map<uint64_t, uint8_t> restored;
  size_t used = 0;
  for (const TestRun& run : runs) {
    for (uint64_t i = 0; i < run.count; i++) {
      for (uint64_t j = 0; j < run.length; j++) restored[run.offset + i * run.stride + j] = payload[used++];
    }
  }
  const auto zero = [](uint64_t) { return uint8_t{0}; };
  const auto value = [&](uint64_t position) { return restored.count(position) > 0 ? restored[position] : uint8_t{0}; };
  patch.locked_sample = sha256(reference::sample(kHuge, zero, patch.bytes));
  patch.restored_sample = sha256(reference::sample(kHuge, value, patch.bytes));
  FilePointer file;
  ASSERT_EQ(open_path(sparse.path(), Options({patch}), file), CORELOCKER_OK);
  const auto* const data = static_cast<const uint8_t*>(corelocker_data(file.get()));
  Bytes put(data + runs[0].offset, data + runs[0].offset + 12);
  for (uint64_t i = 0; i < 5; i++) {
    const uint8_t* const piece = data + runs[1].offset + i * runs[1].stride;
    put.insert(put.end(), piece, piece + 4);
  }
  put.push_back(data[kHuge - 1]);
  EXPECT_EQ(put, payload);
  EXPECT_EQ(data[runs[0].offset - 1], 0);
  EXPECT_EQ(data[runs[0].offset + 12], 0);
  EXPECT_LE(corelocker_private_bytes(file.get()), 8u * static_cast<size_t>(sysconf(_SC_PAGESIZE)));
}

// One thing is wrong with each of these, or two, of which the first in the order of docs/formats.md counts.
TEST(Patch, VerdictsComeInOrder) {
  const auto verdict = [](const std::vector<TestRun>& runs, const Bytes& payload, uint64_t file_size = 1'000) {
    const Bytes patch = encode_patch(runs, payload);
    return corelocker_check_patch(patch.data(), patch.size(), file_size);
  };
  Bytes identity(16);
  std::iota(identity.begin(), identity.end(), uint8_t{0});
  const auto with_mask = [](Bytes table, const Bytes& mask) {
    table.insert(table.end(), mask.begin(), mask.end());
    return table;
  };
  EXPECT_EQ(verdict({{4, 12, 12, 1, 1, 32}}, {5}), CORELOCKER_OK);
  EXPECT_EQ(verdict({{5, 3, 7, 3, 2, 4, 15}}, {1, 2, 4}), CORELOCKER_PATCH_PADDING);  // 18 elements
  EXPECT_EQ(verdict({{5, 3, 7, 3, 2, 4, 15}}, {1, 2, 3}), CORELOCKER_OK);
  EXPECT_EQ(verdict({{5, 1, 1, 1, 3, 4}}, with_mask(identity, {3})), CORELOCKER_OK);

  // Kind, width, constant and length, after length, count and stride, and before the offset.
  EXPECT_EQ(verdict({{4, 12, 12, 1, 4, 0}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 12, 13, 1, 4, 0}}, {5}), CORELOCKER_PATCH_RUN);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 0, 8}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 0, 0, 1}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 12, 12, 1, 1, 8}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 12, 12, 1, 1, 32, 1}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 10, 10, 1, 1, 32}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 10, 10, 1, 1, 16}}, {5}), CORELOCKER_OK);
  EXPECT_EQ(verdict({{4, 9, 9, 1, 1, 16}}, {5}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 2, 4, 16}}, {1}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 2, 8, 255}}, {1}), CORELOCKER_OK);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 2, 16}}, {1}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 3, 4, 1}}, with_mask(identity, {1})), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 1, 1, 1}, {4, 1, 1, 1, 9}}, {1, 1}), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict({{4, 1, 1, 1}, {4, 1, 1, 1}}, {1, 1}), CORELOCKER_PATCH_ORDER);
  EXPECT_EQ(verdict({{UINT64_MAX, 4, 4, 1, 1, 32}}, {1}), CORELOCKER_PATCH_OVERFLOW);
  EXPECT_EQ(verdict({{997, 4, 4, 1, 1, 32}}, {}), CORELOCKER_PATCH_BOUNDS);

  // The parts, the overlap, the table, the padding.
  EXPECT_EQ(verdict({{4, 36, 36, 1, 1, 32}}, {1}), CORELOCKER_PATCH_PAYLOAD);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 3, 4}, {4 + 1, 1, 1, 1, 3, 8}}, Bytes(35)), CORELOCKER_PATCH_PAYLOAD);
  EXPECT_EQ(verdict({{4, 4, 4, 1, 1, 32}, {7, 1, 1, 1}}, {0xFF, 1}), CORELOCKER_PATCH_OVERLAP);
  Bytes table = identity;
  table[3] = 16;
  EXPECT_EQ(verdict({{4, 1, 1, 1, 3, 4}}, with_mask(table, {0xFF})), CORELOCKER_PATCH_TABLE);
  table = identity;
  std::rotate(table.begin(), table.begin() + 1, table.begin() + 3);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 3, 4}}, with_mask(table, {1})), CORELOCKER_PATCH_TABLE);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 3, 4}}, with_mask(identity, {4})), CORELOCKER_PATCH_PADDING);
  EXPECT_EQ(verdict({{4, 1, 1, 1, 2, 8}, {5, 1, 1, 1, 3, 4}}, with_mask({2}, with_mask(table, {1}))),
            CORELOCKER_PATCH_PADDING);

  Bytes patch = encode_patch({{4, 1, 1, 1}}, {1});
  const auto verdict_with = [&](size_t place, uint8_t value) {
    Bytes changed = patch;
    changed[place] = value;
    return corelocker_check_patch(changed.data(), changed.size(), 1'000);
  };
  EXPECT_EQ(verdict_with(6, 'h'), CORELOCKER_PATCH_MAGIC);
  EXPECT_EQ(verdict_with(7, '1'), CORELOCKER_PATCH_VERSION);
  EXPECT_EQ(verdict_with(7, 0), CORELOCKER_PATCH_VERSION);
  EXPECT_EQ(verdict_with(12, 1), CORELOCKER_PATCH_RESERVED);
  EXPECT_EQ(verdict_with(24 + 23, 1), CORELOCKER_PATCH_KIND);
  EXPECT_EQ(verdict_with(16, 0), CORELOCKER_PATCH_TRAILING);
  EXPECT_EQ(verdict_with(16, 2), CORELOCKER_PATCH_TRUNCATED);
  EXPECT_EQ(verdict_with(8, 2), CORELOCKER_PATCH_TRUNCATED);
  EXPECT_EQ(corelocker_check_patch(patch.data(), 23, 1'000), CORELOCKER_PATCH_TRUNCATED);
}

// The example of docs/formats.md.
TEST(Patch, ReadsTheExampleOfTheFormat) {
  const Bytes patch = {
      0x43, 0x4c, 0x50, 0x41, 0x54, 0x43, 0x48, 0x32, 2,  0, 0, 0, 0,  0, 0, 0, 3, 0, 0, 0, 0, 0,    0, 0,  //
      2,    0,    0,    0,    0,    0,    0,    0,    2,  0, 0, 0, 2,  0, 0, 0, 1, 0, 0, 0, 0, 0,    0, 0,  //
      4,    0,    0,    0,    0,    0,    0,    0,    12, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 1, 0x20, 0, 0,  //
      0xaa, 0xbb, 5};
  const Bytes locked(16, 0x11);
  Bytes restored = locked;
  restored[2] = 0xaa;
  restored[3] = 0xbb;
  restored[7] = restored[15] = 0x91;
  EXPECT_EQ(reference::apply(locked, patch), restored);
  Bytes buffer = locked;
  const Options options({{patch, locked, restored}});
  corelocker_file* file = nullptr;
  ASSERT_EQ(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file), CORELOCKER_OK);
  EXPECT_EQ(buffer, restored);
  corelocker_close(file);
}

// The verdict on overlap against marking every byte, over small random runs
// that often meet.
TEST(Patch, OverlapIsExact) {
  std::mt19937 random(20240607);
  const auto pick = [&](uint32_t low, uint32_t high) {
    return std::uniform_int_distribution<uint32_t>(low, high)(random);
  };
  int overlapping = 0;
  constexpr int kRounds = 30'000;
  for (int round = 0; round < kRounds; round++) {
    const uint32_t common = pick(0, 1) == 1 ? pick(4, 24) : 0;
    std::vector<TestRun> runs;
    uint64_t offset = pick(0, 10);
    for (uint32_t n = pick(1, 6); n > 0; n--) {
      const uint32_t length = pick(1, 4);
      const uint32_t count = pick(1, 8);
      const uint32_t stride = count == 1 ? length : std::max(length, common != 0 ? common : pick(length, 20));
      runs.push_back({offset, length, stride, count});
      offset += pick(1, 12);
    }
    std::vector<int> writes(1000);
    size_t payload_size = 0;
    for (const TestRun& run : runs) {
      for (uint32_t i = 0; i < run.count; i++) {
        for (uint32_t j = 0; j < run.length; j++) writes[run.offset + i * run.stride + j]++;
      }
      payload_size += run.length * run.count;
    }
    const bool overlap = *std::max_element(writes.begin(), writes.end()) > 1;
    overlapping += overlap;
    const Bytes patch = encode_patch(runs, Bytes(payload_size));
    ASSERT_EQ(corelocker_check_patch(patch.data(), patch.size(), 1000),
              overlap ? CORELOCKER_PATCH_OVERLAP : CORELOCKER_OK)
        << "round " << round;
  }
  EXPECT_GT(overlapping, kRounds / 5);
  EXPECT_LT(overlapping, kRounds * 4 / 5);
}

// Hostile patches whose pieces interleave in every way that is no plain residue
// pattern.
TEST(Patch, ManyPiecesAreCheckedInBoundedTime) {
  constexpr uint32_t kRuns = 3'000;
  constexpr uint32_t kPieces = 1'000;
  std::vector<TestRun> runs;
  for (uint32_t i = 0; i < kRuns; i++) runs.push_back({uint64_t{i} * 2, 1, (kRuns + i % 2) * 2, kPieces});
  const Bytes patch = encode_patch(runs, Bytes(size_t{kRuns} * kPieces));
  const auto start = std::chrono::steady_clock::now();
  // Strides 6000 and 6002 meet after 3000 pieces at the latest, but their first
  // meetings come early for near neighbors.
  EXPECT_EQ(corelocker_check_patch(patch.data(), patch.size(), UINT64_MAX), CORELOCKER_PATCH_OVERLAP);
  for (uint32_t i = 0; i < kRuns; i++) runs[i] = {uint64_t{i} * 2, 1, kRuns * 2, kPieces};
  runs.push_back({uint64_t{kRuns} * 2 + 1, 1, kRuns * 4, kPieces / 2});
  const Bytes apart = encode_patch(runs, Bytes(size_t{kRuns} * kPieces + kPieces / 2));
  EXPECT_EQ(corelocker_check_patch(apart.data(), apart.size(), UINT64_MAX), CORELOCKER_OK);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_LT(elapsed.count(), 30) << "3 million pieces";
}

}  // namespace
}  // namespace corelocker::tests
