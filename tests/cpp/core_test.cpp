// The C API on files, descriptors and buffers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace corelocker::tests {
namespace {

constexpr size_t kFileSize = 100'000;

// qemu-user enforces no limit of the address space and shows no private pages in /proc/self/smaps.
#ifdef CORELOCKER_EMULATED
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

bool all_zero(const Bytes& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

// A locked file of two tiers: `full` differs from `plus` and `plus` from
// `locked`, partly at the same bytes.
struct TwoTiers {
  const std::vector<TestRun> plus_runs = {{10, 4, 12, 100}, {14, 4, 12, 50}, {50'000, 5'000, 5'000, 1}};
  const std::vector<TestRun> full_runs = {{0, 3, 3, 1}, {52'000, 1'000, 1'500, 3}, {kFileSize - 1, 1, 1, 1}};
  const Bytes original = noise(kFileSize, 1);
  const Bytes plus = overwritten(original, full_runs, 2);
  const Bytes locked = overwritten(plus, plus_runs, 3);
  const TestPatch to_plus{locked, plus, plus_runs};
  const TestPatch to_full{plus, original, full_runs};
  const TemporaryFile file{locked};

  static Bytes overwritten(Bytes bytes, const std::vector<TestRun>& runs, uint64_t seed) {
    const Bytes fill = noise(bytes.size(), seed);
    for (const TestRun& run : runs) {
      for (uint64_t i = 0; i < run.count; i++) {
        const size_t start = run.offset + i * run.stride;
        std::copy_n(fill.data() + start, run.length, bytes.data() + start);
      }
    }
    return bytes;
  }
};

TEST(Open, RestoresTheTiersInOrder) {
  const TwoTiers tiers;
  FilePointer locked;
  FilePointer plus;
  FilePointer full;
  ASSERT_EQ(open_path(tiers.file.path(), Options(), locked), CORELOCKER_OK);
  ASSERT_EQ(open_path(tiers.file.path(), Options({tiers.to_plus}), plus), CORELOCKER_OK);
  ASSERT_EQ(open_path(tiers.file.path(), Options({tiers.to_plus, tiers.to_full}), full), CORELOCKER_OK);
  // All three at once: each sees its own bytes, whatever the others did.
  EXPECT_EQ(contents(locked.get()), tiers.locked);
  EXPECT_EQ(contents(plus.get()), tiers.plus);
  EXPECT_EQ(contents(full.get()), tiers.original);
  full.reset();
  EXPECT_EQ(contents(locked.get()), tiers.locked);
  EXPECT_EQ(contents(plus.get()), tiers.plus);
  EXPECT_EQ(read_file(tiers.file.path()), tiers.locked);
}

TEST(Open, TakesNullOptions) {
  const TwoTiers tiers;
  corelocker_file* file = nullptr;
  ASSERT_EQ(corelocker_open_path(tiers.file.path(), nullptr, &file), CORELOCKER_OK);
  EXPECT_EQ(contents(file), tiers.locked);
  EXPECT_EQ(corelocker_private_bytes(file), 0u);
  corelocker_close(file);
}

TEST(Open, RefusesTiersInTheWrongOrder) {
  const TwoTiers tiers;
  FilePointer file;
  EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_full, tiers.to_plus}), file), CORELOCKER_RESTORE_REPLACED);
  EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_full}), file), CORELOCKER_RESTORE_REPLACED);
}

TEST(Open, RefusesARestoredFile) {
  const TwoTiers tiers;
  FilePointer file;
  const TemporaryFile plus(tiers.plus);
  const TemporaryFile original(tiers.original);
  EXPECT_EQ(open_path(plus.path(), Options({tiers.to_plus}), file), CORELOCKER_RESTORE_ALREADY);
  EXPECT_EQ(open_path(plus.path(), Options({tiers.to_plus, tiers.to_full}), file), CORELOCKER_RESTORE_ALREADY);
  EXPECT_EQ(open_path(original.path(), Options({tiers.to_plus, tiers.to_full}), file), CORELOCKER_RESTORE_ALREADY);
}

TEST(Open, RefusesAnotherFile) {
  const TwoTiers tiers;
  FilePointer file;
  const TemporaryFile other(noise(kFileSize, 9));
  EXPECT_EQ(open_path(other.path(), Options({tiers.to_plus}), file), CORELOCKER_RESTORE_REPLACED);
  // One flipped bit among the bytes that the patch replaces is enough;
  // elsewhere only a full check can see it.
  for (const bool inside : {true, false}) {
    Bytes damaged = tiers.locked;
    damaged[inside ? 50'100 : 60'000] ^= 1;
    const TemporaryFile damaged_file(damaged);
    EXPECT_EQ(open_path(damaged_file.path(), Options({tiers.to_plus}), file),
              inside ? CORELOCKER_RESTORE_REPLACED : CORELOCKER_OK);
    const Digest whole = sha256(tiers.plus);
    Options full_check({tiers.to_plus});
    full_check.entries[0].file = whole.data();
    EXPECT_EQ(open_path(damaged_file.path(), full_check, file),
              inside ? CORELOCKER_RESTORE_REPLACED : CORELOCKER_RESTORE_RESTORED);
  }
}

TEST(Open, ChecksTheWholeFileWhenAsked) {
  const TwoTiers tiers;
  const Digest plus = sha256(tiers.plus);
  const Digest original = sha256(tiers.original);
  Options options({tiers.to_plus, tiers.to_full});
  options.entries[0].file = plus.data();
  options.entries[1].file = original.data();
  FilePointer file;
  EXPECT_EQ(open_path(tiers.file.path(), options, file), CORELOCKER_OK);
  EXPECT_EQ(contents(file.get()), tiers.original);
}

TEST(Open, RefusesOtherRestoredBytes) {
  const TwoTiers tiers;
  TestPatch forged = tiers.to_plus;
  forged.bytes.back() ^= 1;
  FilePointer file;
  EXPECT_EQ(open_path(tiers.file.path(), Options({forged}), file), CORELOCKER_RESTORE_RESTORED);
}

TEST(Open, ChecksTheSize) {
  const TwoTiers tiers;
  FilePointer file;
  for (const uint64_t size : {uint64_t{kFileSize}, uint64_t{kFileSize - 1}, uint64_t{0}}) {
    Options options({tiers.to_plus});
    options.options.file_size = size;
    EXPECT_EQ(open_path(tiers.file.path(), options, file), size == kFileSize ? CORELOCKER_OK : CORELOCKER_RESTORE_SIZE);
  }
}

TEST(Open, WipesThePatches) {
  const TwoTiers tiers;
  FilePointer file;
  const Options good({tiers.to_plus, tiers.to_full});
  EXPECT_EQ(open_path(tiers.file.path(), good, file), CORELOCKER_OK);
  const Options refused({tiers.to_full, tiers.to_plus});
  EXPECT_EQ(open_path(tiers.file.path(), refused, file), CORELOCKER_RESTORE_REPLACED);
  const Options missing({tiers.to_plus, tiers.to_full});
  EXPECT_EQ(open_path("/nonexistent", missing, file), CORELOCKER_FILE_ACCESS);
  Options wrong({tiers.to_plus, tiers.to_full});
  wrong.options.flags = 1u << 31;
  EXPECT_EQ(open_path(tiers.file.path(), wrong, file), CORELOCKER_ARGUMENT);
  for (const Options* options : {&good, &refused, &missing, static_cast<const Options*>(&wrong)}) {
    EXPECT_TRUE(all_zero(options->patch_memory(0)));
    EXPECT_TRUE(all_zero(options->patch_memory(1)));
  }
}

TEST(Open, RefusesWrongCalls) {
  const TwoTiers tiers;
  corelocker_file* file = nullptr;
  const auto open_with = [&](auto change) {
    Options options({tiers.to_plus});
    change(options);
    return corelocker_open_path(tiers.file.path(), options.get(), &file);
  };
  EXPECT_EQ(open_with([](Options&) {}), CORELOCKER_OK);
  corelocker_close(file);
  EXPECT_EQ(open_with([](Options& o) { o.options.struct_size = 8; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.options.flags = 4; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.options.patches = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.options.sha256 = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.entries[0].bytes = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.entries[0].replaced = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.entries[0].restored = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.options.sha256 = [](void*, const void*, size_t, uint8_t*) { return 1; }; }),
            CORELOCKER_ARGUMENT);
  EXPECT_EQ(file, nullptr);
  EXPECT_EQ(corelocker_open_path(nullptr, nullptr, &file), CORELOCKER_ARGUMENT);
  EXPECT_EQ(corelocker_open_path(tiers.file.path(), nullptr, nullptr), CORELOCKER_ARGUMENT);
  EXPECT_EQ(corelocker_open_buffer(nullptr, 1, nullptr, &file), CORELOCKER_ARGUMENT);
  EXPECT_EQ(corelocker_check_patch(nullptr, 1, 0), CORELOCKER_ARGUMENT);
  corelocker_close(nullptr);
}

TEST(Open, RefusesWhatIsNoFile) {
  FilePointer file;
  EXPECT_EQ(open_path("/nonexistent/model.pte", Options(), file), CORELOCKER_FILE_ACCESS);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(open_path("/tmp", Options(), file), CORELOCKER_FILE_ACCESS);
  EXPECT_EQ(errno, EISDIR);
  EXPECT_EQ(open_path("/dev/null", Options(), file), CORELOCKER_FILE_ACCESS);
  const TemporaryFile pipe{Bytes()};
  unlink(pipe.path());
  ASSERT_EQ(mkfifo(pipe.path(), 0600), 0);
  EXPECT_EQ(open_path(pipe.path(), Options(), file),
            CORELOCKER_FILE_ACCESS);  // and does not wait for a writer
  corelocker_file* opened = nullptr;
  EXPECT_EQ(corelocker_open_fd(-1, 0, 1, nullptr, &opened), CORELOCKER_FILE_ACCESS);
  EXPECT_EQ(errno, EBADF);
}

TEST(Open, TakesAnEmptyFile) {
  const TemporaryFile empty{Bytes()};
  const TestPatch patch({}, {}, {});
  FilePointer file;
  ASSERT_EQ(open_path(empty.path(), Options({patch}), file), CORELOCKER_OK);
  EXPECT_EQ(corelocker_size(file.get()), 0u);
  EXPECT_EQ(corelocker_check(file.get()), CORELOCKER_OK);
}

// As Android hands an asset over: somewhere inside a package file.
TEST(OpenDescriptor, TakesBytesInsideAFile) {
  const TwoTiers tiers;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (const size_t offset : {size_t{0}, size_t{16}, page - 16, page, 3 * page + 160, size_t{4}, page + 1}) {
    Bytes package = noise(offset, 7);
    package.insert(package.end(), tiers.locked.begin(), tiers.locked.end());
    const Bytes behind = noise(12'345, 8);
    package.insert(package.end(), behind.begin(), behind.end());
    const TemporaryFile on_disk(package);
    const int fd = open(on_disk.path(), O_RDONLY);
    const Options options({tiers.to_plus, tiers.to_full});
    corelocker_file* opened = nullptr;
    ASSERT_EQ(corelocker_open_fd(fd, offset, kFileSize, options.get(), &opened), CORELOCKER_OK) << offset;
    close(fd);
    const FilePointer file(opened);
    EXPECT_EQ(contents(opened), tiers.original) << offset;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(corelocker_data(opened)) % CORELOCKER_ALIGNMENT, 0u);
    EXPECT_EQ(corelocker_check(opened), CORELOCKER_OK);
    const bool copied = offset % CORELOCKER_ALIGNMENT != 0;
    EXPECT_EQ(corelocker_private_bytes(opened) >= kFileSize, copied) << offset;
    EXPECT_EQ(read_file(on_disk.path()), package);
  }
}

TEST(OpenDescriptor, RefusesARangeOutsideTheFile) {
  const TwoTiers tiers;
  const int fd = open(tiers.file.path(), O_RDONLY);
  corelocker_file* file = nullptr;
  EXPECT_EQ(corelocker_open_fd(fd, 0, kFileSize + 1, nullptr, &file), CORELOCKER_RESTORE_SIZE);
  EXPECT_EQ(corelocker_open_fd(fd, kFileSize + 1, 0, nullptr, &file), CORELOCKER_RESTORE_SIZE);
  EXPECT_EQ(corelocker_open_fd(fd, 1, kFileSize, nullptr, &file), CORELOCKER_RESTORE_SIZE);
  EXPECT_EQ(corelocker_open_fd(fd, UINT64_MAX, UINT64_MAX - 1, nullptr, &file), CORELOCKER_RESTORE_SIZE);
  EXPECT_EQ(file, nullptr);
  ASSERT_EQ(corelocker_open_fd(fd, 32, CORELOCKER_TO_END, nullptr, &file), CORELOCKER_OK);
  EXPECT_EQ(corelocker_size(file), kFileSize - 32);
  corelocker_close(file);
  close(fd);
}

TEST(OpenBuffer, ChangesItInPlaceOrNotAtAll) {
  const TwoTiers tiers;
  Bytes buffer = tiers.locked;
  corelocker_file* file = nullptr;
  TestPatch forged = tiers.to_full;
  forged.bytes.back() ^= 1;
  for (const auto& [second, expected] :
       {std::pair{forged, CORELOCKER_RESTORE_RESTORED}, std::pair{tiers.to_plus, CORELOCKER_RESTORE_REPLACED},
        std::pair{TestPatch::of_bytes({1, 2}), CORELOCKER_PATCH_TRUNCATED}}) {
    const Options options({tiers.to_plus, second});
    EXPECT_EQ(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file), expected);
    EXPECT_EQ(file, nullptr);
    EXPECT_EQ(buffer, tiers.locked);
  }
  const Options options({tiers.to_plus, tiers.to_full});
  ASSERT_EQ(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file), CORELOCKER_OK);
  EXPECT_EQ(buffer, tiers.original);
  EXPECT_EQ(corelocker_data(file), buffer.data());
  EXPECT_EQ(corelocker_private_bytes(file), 0u);
  corelocker_close(file);
  buffer[0] ^= 1;  // still the caller's, and writable
}

// Whether the kernel lets a page be written is asked with a read into it, which
// fails instead of ending the process.
TEST(Handle, IsReadOnly) {
  const TwoTiers tiers;
  const TemporaryFile source(Bytes{1});
  const int fd = open(source.path(), O_RDONLY);
  for (const uint32_t flags : {0u, CORELOCKER_COPY}) {
    FilePointer file;
    ASSERT_EQ(open_path(tiers.file.path(), Options({tiers.to_plus}, flags), file), CORELOCKER_OK);
    auto* const data = static_cast<uint8_t*>(const_cast<void*>(corelocker_data(file.get())));
    for (const size_t position : {size_t{0}, size_t{50'000}, kFileSize - 1}) {
      EXPECT_EQ(pread(fd, data + position, 1, 0), -1);
      EXPECT_EQ(errno, EFAULT);
    }
  }
  close(fd);
}

// What the kernel says of the mappings of a file.
uint64_t private_dirty_of(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  uint64_t bytes = 0;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    const bool begins_mapping = line.find('-') < line.find(' ') && line.find(':') > line.find(' ');
    if (begins_mapping) inside = line.size() > path.size() && line.substr(line.size() - path.size()) == path;
    if (inside && line.rfind("Private_Dirty:", 0) == 0) bytes += std::stoull(line.substr(14)) * 1024;
  }
  return bytes;
}

TEST(Handle, ReportsPrivateBytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const Bytes original = noise(100 * page, 1);
  // Pages 0, 1 (a piece across the border), 5, and every third page from 20 on,
  // four times.
  const std::vector<TestRun> runs = {{page - 2, 4, 4, 1},
                                     {5 * page, 8, 8, 10},
                                     {20 * page, 4, static_cast<uint32_t>(3 * page), 4},
                                     {20 * page + 8, 4, static_cast<uint32_t>(3 * page), 4}};
  const Bytes locked = TwoTiers::overwritten(original, runs, 2);
  const TemporaryFile on_disk(locked);
  const TestPatch patch(locked, original, runs);
  FilePointer file;
  ASSERT_EQ(open_path(on_disk.path(), Options({patch}), file), CORELOCKER_OK);
  EXPECT_EQ(corelocker_private_bytes(file.get()), 7 * page);
  if (!kEmulated) {
    EXPECT_EQ(private_dirty_of(on_disk.path()), 7 * page);
  }
  ASSERT_EQ(open_path(on_disk.path(), Options({patch}, CORELOCKER_COPY), file), CORELOCKER_OK);
  EXPECT_EQ(corelocker_private_bytes(file.get()), 100 * page);
}

TEST(Handle, SeesThatTheFileChanged) {
  const TwoTiers tiers;
  const auto open_then = [&](auto change, uint32_t flags) {
    const TemporaryFile on_disk(tiers.locked);
    FilePointer file;
    EXPECT_EQ(open_path(on_disk.path(), Options({tiers.to_plus}, flags), file), CORELOCKER_OK);
    EXPECT_EQ(corelocker_check(file.get()), CORELOCKER_OK);
    change(on_disk.path());
    const corelocker_error error = corelocker_check(file.get());
    if (error == CORELOCKER_OK) {
      EXPECT_EQ(contents(file.get()), tiers.plus);
    }
    return error;
  };
  const auto shorten = [](const char* path) { ASSERT_EQ(truncate(path, 10), 0); };
  const auto lengthen = [](const char* path) { ASSERT_EQ(truncate(path, kFileSize + 1), 0); };
  const auto write_into = [](const char* path) {
    const int fd = open(path, O_WRONLY);
    ASSERT_EQ(pwrite(fd, "x", 1, 70'000), 1);
    close(fd);
  };
  const auto replace = [](const char* path) {
    const std::string other = std::string(path) + ".new";
    std::ofstream(other) << "another model";
    ASSERT_EQ(rename(other.c_str(), path), 0);
  };
  const auto remove = [](const char* path) { ASSERT_EQ(unlink(path), 0); };
  EXPECT_EQ(open_then(shorten, 0), CORELOCKER_FILE_CHANGED);
  EXPECT_EQ(open_then(lengthen, 0), CORELOCKER_FILE_CHANGED);
  EXPECT_EQ(open_then(write_into, 0), CORELOCKER_FILE_CHANGED);
  EXPECT_EQ(open_then(replace, 0), CORELOCKER_OK);
  EXPECT_EQ(open_then(remove, 0), CORELOCKER_OK);
  // A copy does not depend on the file.
  EXPECT_EQ(open_then(shorten, CORELOCKER_COPY), CORELOCKER_OK);
  EXPECT_EQ(open_then(write_into, CORELOCKER_COPY), CORELOCKER_OK);
}

// Whatever happens to the file while it is copied, there is an error or the restored bytes; a mapping cannot promise
// that.
TEST(Handle, CopiesWhileTheFileIsShortened) {
  const TwoTiers tiers;
  std::atomic<bool> done{false};
  std::thread vandal([&] {
    const int fd = open(tiers.file.path(), O_RDWR);
    while (!done) {
      EXPECT_EQ(ftruncate(fd, 5'000), 0);
      EXPECT_EQ(pwrite(fd, tiers.locked.data(), kFileSize, 0), static_cast<ssize_t>(kFileSize));
    }
    close(fd);
  });
  std::set<corelocker_error> seen;
  for (int i = 0; i < 2'000; i++) {
    Options options({tiers.to_plus}, CORELOCKER_COPY);
    options.options.file_size = kFileSize;
    FilePointer file;
    seen.insert(open_path(tiers.file.path(), options, file));
  }
  done = true;
  vandal.join();
  for (const corelocker_error error :
       {CORELOCKER_OK, CORELOCKER_RESTORE_SIZE, CORELOCKER_RESTORE_REPLACED, CORELOCKER_FILE_CHANGED}) {
    seen.erase(error);
  }
  EXPECT_TRUE(seen.empty()) << corelocker_error_name(*seen.begin());
}

TEST(Patch, IsAppliedAboveFourGigabytes) {
  constexpr uint64_t kHuge = 5'000'000'000;
  const TemporaryFile sparse{Bytes()};
  ASSERT_EQ(truncate(sparse.path(), kHuge), 0);
  const std::vector<TestRun> runs = {
      {4'294'967'290, 12, 12, 1}, {4'500'000'000, 4, 100'000'000, 5}, {kHuge - 1, 1, 1, 1}};
  const Bytes payload = noise(12 + 20 + 1, 4);
  const TestPatch patch =
      TestPatch::of_bytes(encode_patch(runs, payload), sha256(Bytes(payload.size(), 0)), sha256(payload));
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

TEST(Errors, HaveStableNames) {
  const std::vector<std::pair<int, std::string>> names = {{0, "ok"},
                                                          {1, "argument"},
                                                          {2, "memory"},
                                                          {3, "file-access"},
                                                          {4, "file-changed"},
                                                          {16, "patch-truncated"},
                                                          {17, "patch-magic"},
                                                          {18, "patch-reserved"},
                                                          {19, "patch-run"},
                                                          {20, "patch-order"},
                                                          {21, "patch-overflow"},
                                                          {22, "patch-bounds"},
                                                          {23, "patch-overlap"},
                                                          {24, "patch-payload"},
                                                          {25, "patch-trailing"},
                                                          {32, "restore-size"},
                                                          {33, "restore-already"},
                                                          {34, "restore-replaced"},
                                                          {35, "restore-restored"}};
  for (const auto& [value, name] : names) {
    EXPECT_EQ(corelocker_error_name(static_cast<corelocker_error>(value)), name);
    EXPECT_GT(std::strlen(corelocker_error_text(static_cast<corelocker_error>(value))), 7u);
  }
  EXPECT_STREQ(corelocker_error_name(CORELOCKER_RESTORE_RESTORED), "restore-restored");
  EXPECT_EQ(corelocker_version(), 0x010000u);
}

#ifndef CORELOCKER_SANITIZED
// In a child, since a limit cannot be lifted again. Sanitizers need more
// address space than the limit leaves.
TEST(Limits, AddressSpaceGivesAnError) {
  if (kEmulated) GTEST_SKIP() << "qemu-user does not enforce the limit";
  const TemporaryFile sparse{Bytes()};
  ASSERT_EQ(truncate(sparse.path(), int64_t{1} << 32), 0);
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit = {uint64_t{1} << 31, uint64_t{1} << 31};
    setrlimit(RLIMIT_AS, &limit);
    corelocker_file* file = nullptr;
    const corelocker_error mapped = corelocker_open_path(sparse.path(), nullptr, &file);
    const Options copy({}, CORELOCKER_COPY);
    const corelocker_error copied = corelocker_open_path(sparse.path(), copy.get(), &file);
    _exit(mapped == CORELOCKER_MEMORY && copied == CORELOCKER_MEMORY && file == nullptr ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

TEST(Limits, NoDescriptorLeftGivesAnError) {
  const TwoTiers tiers;
  const int fd = open(tiers.file.path(), O_RDONLY);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {static_cast<rlim_t>(fd) + 1, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  corelocker_file* file = nullptr;
  EXPECT_EQ(corelocker_open_path(tiers.file.path(), nullptr, &file), CORELOCKER_FILE_ACCESS);
  EXPECT_EQ(corelocker_open_fd(fd, 0, CORELOCKER_TO_END, nullptr, &file), CORELOCKER_FILE_ACCESS);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(corelocker_open_fd(fd, 0, CORELOCKER_TO_END, nullptr, &file), CORELOCKER_OK);
  corelocker_close(file);
  close(fd);
}

TEST(Leaks, OpenAndCloseHoldNothing) {
  const TwoTiers tiers;
  const auto count_descriptors = [] {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) != -1;
    return count;
  };
  const auto count_mappings = [&] {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) count += line.find(tiers.file.path()) != std::string::npos;
    return count;
  };
  const int descriptors = count_descriptors();
  FilePointer file;
  for (int i = 0; i < 20; i++) {
    EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_plus}), file), CORELOCKER_OK);
    EXPECT_GT(count_mappings(), 0);
    EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_full}), file), CORELOCKER_RESTORE_REPLACED);
    EXPECT_EQ(count_mappings(), 0);
    EXPECT_EQ(count_descriptors(), descriptors);
  }
}

}  // namespace
}  // namespace corelocker::tests
