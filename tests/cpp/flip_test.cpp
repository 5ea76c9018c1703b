// Runs that flip elements: every kind, width, alignment and shape against the plain reading of the format.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "two_tiers.h"

namespace corelocker::tests {
namespace {

constexpr uint8_t kReplace = 0;
constexpr uint8_t kXorTop = 1;
constexpr uint8_t kNegate = 2;
constexpr uint8_t kPermute = 3;

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t pick(uint32_t low, uint32_t high) { return std::uniform_int_distribution<uint32_t>(low, high)(engine_); }

  // A permutation that is its own inverse: pairs, and some elements that stay.
  Bytes involution(unsigned width) {
    Bytes order(size_t{1} << width);
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::shuffle(order.begin(), order.end(), engine_);
    Bytes table(order.size());
    std::iota(table.begin(), table.end(), uint8_t{0});
    for (size_t i = 0; i + 1 < order.size() - pick(0, 3); i += 2) {
      table[order[i]] = order[i + 1];
      table[order[i + 1]] = order[i];
    }
    return table;
  }

  void append_mask(Bytes& payload, uint64_t elements) {
    const uint32_t density = pick(0, 4);
    Bytes mask((elements + 7) / 8);
    for (uint64_t i = 0; i < elements; i++) {
      const bool chosen = density == 0 ? false : density == 4 ? true : pick(1, 3) <= density;
      if (chosen) mask[i / 8] |= static_cast<uint8_t>(1u << i % 8);
    }
    payload.insert(payload.end(), mask.begin(), mask.end());
  }

  // A run of any kind that begins at `offset`, and its part of the payload.
  TestRun run(uint64_t offset, uint32_t longest, Bytes& payload) {
    const std::vector<std::pair<uint8_t, uint8_t>> kinds = {{kReplace, 0}, {kXorTop, 16}, {kXorTop, 32}, {kNegate, 4},
                                                            {kNegate, 8},  {kPermute, 4}, {kPermute, 8}};
    const auto [kind, width] = kinds[pick(0, static_cast<uint32_t>(kinds.size()) - 1)];
    const uint32_t element = std::max<uint32_t>(1, width / 8);
    TestRun run{offset, pick(1, longest) * element, 0, pick(0, 1) == 0 ? 1 : pick(1, 9), kind, width, 0};
    run.stride = run.length + (run.count > 1 ? pick(0, 5) : 0);
    if (kind == kNegate) run.constant = static_cast<uint8_t>(pick(0, (1u << width) - 1));
    if (kind == kReplace) {
      const Bytes bytes = noise(size_t{run.length} * run.count, pick(0, 1u << 30));
      payload.insert(payload.end(), bytes.begin(), bytes.end());
      return run;
    }
    if (kind == kPermute) {
      const Bytes table = involution(width);
      payload.insert(payload.end(), table.begin(), table.end());
    }
    append_mask(payload, uint64_t{run.length} * run.count * 8 / width);
    return run;
  }

  // A patch of several runs, one behind the other at odd places, and where the last one ends.
  std::pair<Bytes, uint64_t> patch(uint32_t most_runs, uint32_t longest) {
    std::vector<TestRun> runs;
    Bytes payload;
    uint64_t offset = pick(0, 20);
    for (uint32_t n = pick(1, most_runs); n > 0; n--) {
      const TestRun made = run(offset, longest, payload);
      runs.push_back(made);
      offset = made.offset + uint64_t{made.stride} * (made.count - 1) + made.length + pick(0, 30);
    }
    return {encode_patch(runs, payload), offset};
  }

 private:
  std::mt19937 engine_;
};

corelocker_error open_buffer(Bytes& buffer, const Options& options) {
  corelocker_file* file = nullptr;
  const corelocker_error error = corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file);
  corelocker_close(file);
  return error;
}

TEST(Flip, DoesWhatTheFormatSays) {
  Random random(1);
  for (int round = 0; round < 3'000; round++) {
    const auto [patch, end] = random.patch(4, round % 10 == 0 ? 3'000 : 200);
    const Bytes locked = noise(end + random.pick(0, 40), static_cast<uint64_t>(round));
    const Bytes restored = reference::apply(locked, patch);
    const TestPatch section(patch, locked, restored);
    Bytes buffer = locked;
    ASSERT_EQ(open_buffer(buffer, Options({section})), CORELOCKER_OK) << "round " << round;
    ASSERT_EQ(buffer, restored) << "round " << round;

    // What fails at the very end leaves everything as it was.
    buffer = locked;
    TestPatch wrong = section;
    wrong.restored_sha256[31] ^= 1;
    ASSERT_EQ(open_buffer(buffer, Options({wrong}, 0, CORELOCKER_FULL_CHECK_ALWAYS)), CORELOCKER_RESTORE_RESTORED);
    ASSERT_EQ(buffer, locked) << "round " << round;
    if (round % 10 != 0) continue;

    const TemporaryFile on_disk(locked);
    FilePointer file;
    for (const uint32_t flags : {0u, CORELOCKER_COPY}) {
      ASSERT_EQ(open_path(on_disk.path(), Options({section}, flags), file), CORELOCKER_OK);
      ASSERT_EQ(contents(file.get()), restored) << "round " << round;
    }
  }
}

// Mapped page by page, and read into huge pages where the patch touches nearly all of them; in both ways runs are cut,
// and tiers flip the same elements.
TEST(Flip, RestoresLargeFilesInTiers) {
  constexpr size_t kSize = (size_t{5} << 20) + 12'345;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  for (const uint32_t touched_percent : {20u, 100u}) {
    Random random(touched_percent);
    std::vector<TestRun> runs;
    Bytes payload;
    constexpr uint32_t kRuns = 7;
    const auto length = static_cast<uint32_t>(kSize / kRuns * touched_percent / 100 / 128 * 128);
    for (uint32_t i = 0; i < kRuns; i++) {
      const uint8_t kind = i % 4;
      const uint8_t width = kind == kReplace ? 0 : kind == kXorTop ? 32 : i < 4 ? 8 : 4;
      const TestRun run{i * (kSize / kRuns) + 3, length, length, 1, kind, width, 0};
      runs.push_back(run);
      if (kind == kReplace) {
        const Bytes bytes = noise(length, i);
        payload.insert(payload.end(), bytes.begin(), bytes.end());
        continue;
      }
      if (kind == kPermute) {
        const Bytes table = random.involution(width);
        payload.insert(payload.end(), table.begin(), table.end());
      }
      random.append_mask(payload, uint64_t{length} * 8 / width);
    }
    const Bytes first = encode_patch(runs, payload);
    // Interleaved runs over what the first patch changed.
    Bytes second_payload;
    std::vector<TestRun> second_runs = {{9, 4, 12, 100'000, kXorTop, 32}, {15, 2, 12, 99'000, kNegate, 8, 7}};
    random.append_mask(second_payload, 100'000);
    random.append_mask(second_payload, 198'000);
    const Bytes second = encode_patch(second_runs, second_payload);

    const Bytes locked = noise(kSize, 5);
    const Bytes plus = reference::apply(locked, first);
    const Bytes full = reference::apply(plus, second);
    const std::vector<TestPatch> sections = {{first, locked, plus}, {second, locked, full}};
    const TemporaryFile on_disk(locked);
    FilePointer file;
    ASSERT_EQ(open_path(on_disk.path(), Options({sections[0]}), file), CORELOCKER_OK);
    EXPECT_EQ(contents(file.get()), plus);
    const uint64_t all = (kSize + page - 1) / page * page;
    EXPECT_EQ(corelocker_private_bytes(file.get()) == all, touched_percent == 100);
    EXPECT_EQ(corelocker_check(file.get()), CORELOCKER_OK);
    ASSERT_EQ(open_path(on_disk.path(), Options(sections, 0, CORELOCKER_FULL_CHECK_ALWAYS), file), CORELOCKER_OK);
    EXPECT_EQ(contents(file.get()), full);
    EXPECT_EQ(read_file(on_disk.path()), locked);
    // However it came into memory, a changed file is noticed.
    ASSERT_EQ(truncate(on_disk.path(), 10), 0);
    EXPECT_EQ(corelocker_check(file.get()), CORELOCKER_FILE_CHANGED);

    Bytes buffer = locked;
    TestPatch wrong = sections[1];
    wrong.restored_sample[0] ^= 1;
    EXPECT_EQ(open_buffer(buffer, Options({sections[0], wrong})), CORELOCKER_RESTORE_RESTORED);
    EXPECT_EQ(buffer, locked);
    ASSERT_EQ(open_buffer(buffer, Options(sections)), CORELOCKER_OK);
    EXPECT_EQ(buffer, full);
  }
}

}  // namespace
}  // namespace corelocker::tests
