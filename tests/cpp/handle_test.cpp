// What an opened file is worth: memory, changes of the file behind it, limits of the system.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "two_tiers.h"

namespace corelocker::tests {
namespace {

// qemu-user enforces no limit of the address space and shows no private pages in /proc/self/smaps.
#ifdef CORELOCKER_EMULATED
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

// The kernel is asked with a read into the memory, which fails instead of ending the process.
bool is_writable(const corelocker_file* file, uint64_t position) {
  const TemporaryFile source(Bytes{1});
  const int fd = open(source.path(), O_RDONLY);
  auto* const data = static_cast<uint8_t*>(const_cast<void*>(corelocker_data(file)));
  const bool written = pread(fd, data + position, 1, 0) != -1;
  if (!written) {
    EXPECT_EQ(errno, EFAULT);
  }
  close(fd);
  return written;
}

TEST(Handle, IsReadOnly) {
  const TwoTiers tiers;
  for (const uint32_t flags : {0u, CORELOCKER_COPY}) {
    FilePointer file;
    ASSERT_EQ(open_path(tiers.file.path(), Options({tiers.to_plus}, flags), file), CORELOCKER_OK);
    for (const size_t position : {size_t{0}, size_t{50'000}, kFileSize - 1}) {
      EXPECT_FALSE(is_writable(file.get(), position)) << position;
    }
  }
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

// Regions of which a patch touches much are read into memory of their own; the others stay mapped, page by page. The
// part that is opened begins inside the file, so that its regions begin at other places than the file's.
TEST(Handle, ReadsRegionsThatAreTouchedMuch) {
  constexpr uint64_t kRegion = uint64_t{2} << 20;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const auto pages = static_cast<uint32_t>(kRegion / page);
  const auto stride = static_cast<uint32_t>(page);
  // Of five regions: one page in four, all but the first, none, all, one at the border; and all of what is left over.
  const std::vector<TestRun> runs = {
      {2 * page, 3, 4 * stride, pages / 4 - 1},
      {kRegion + page, 100, stride, pages - 1},
      {3 * kRegion, 7, stride, pages},
      {5 * kRegion - 2, 2, 2, 1},
      {5 * kRegion, static_cast<uint32_t>(10 * page), static_cast<uint32_t>(10 * page), 1}};
  const uint64_t expected = (pages / 4 - 1 + 2 * pages + 1 + 10) * page;
  const Bytes original = noise(5 * kRegion + 10 * page, 1);
  const Bytes locked = TwoTiers::overwritten(original, runs, 2);
  const TestPatch patch(locked, original, runs);
  for (const uint64_t before : {uint64_t{0}, page, page + 64}) {
    SCOPED_TRACE(before);
    Bytes stored = noise(before, 3);
    stored.insert(stored.end(), locked.begin(), locked.end());
    const TemporaryFile on_disk(stored);
    const int fd = open(on_disk.path(), O_RDONLY);
    const Options options({patch});
    corelocker_file* opened = nullptr;
    ASSERT_EQ(corelocker_open_fd(fd, before, locked.size(), options.get(), &opened), CORELOCKER_OK);
    close(fd);
    const FilePointer file(opened);
    // Shifted by a part of a page, two pieces reach into a page more.
    EXPECT_LE(corelocker_private_bytes(opened) - expected, before % page == 0 ? 0 : 2 * page);
    // Before they are read: the kernel counts pages of a file that was just written as well.
    if (!kEmulated && before % page == 0) {
      EXPECT_EQ(private_dirty_of(on_disk.path()), expected - 2 * kRegion);
    }
    EXPECT_TRUE(contents(opened) == original);
    for (const uint64_t position : {uint64_t{0}, kRegion, 3 * kRegion, locked.size() - 1}) {
      EXPECT_FALSE(is_writable(opened, position)) << position;
    }
    EXPECT_EQ(corelocker_check(opened), CORELOCKER_OK);
    ASSERT_EQ(truncate(on_disk.path(), 10), 0);
    EXPECT_EQ(corelocker_check(opened), CORELOCKER_FILE_CHANGED);
  }
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
    EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_full}), file), CORELOCKER_RESTORE_RESTORED);
    EXPECT_EQ(count_mappings(), 0);
    EXPECT_EQ(count_descriptors(), descriptors);
  }
}

}  // namespace
}  // namespace corelocker::tests
