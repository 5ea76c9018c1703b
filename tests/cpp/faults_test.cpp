// Every system call of the core fails once, or is interrupted: the linker
// routes the core's calls through here (--wrap).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <map>
#include <string>
#include <vector>

#include "support.h"

namespace {

constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE

// What happens to the calls from now on. Only calls while an open function runs
// count.
struct Plan {
  bool active = false;
  int calls = 0;                             // made so far
  int failing_call = -1;                     // the call with this number fails
  std::map<std::string, int> interruptions;  // so many calls of a kind return EINTR before one gets through
  size_t longest_read = 0;                   // 0: no limit
  off64_t shortened_to = INT64_MAX;          // reads from here on see the end of the file
  int populate_error = 0;                    // what the kernel says when asked for private pages
  std::vector<std::string> made;

  bool fails(const char* name) {
    if (!active) return false;
    made.emplace_back(name);
    return calls++ == failing_call;
  }

  bool interrupts(const char* name) {
    if (!active || interruptions[name] == 0) return false;
    interruptions[name]--;
    errno = EINTR;
    return true;
  }
};

Plan plan;

bool fails_with(const char* name, int reason) {
  if (!plan.fails(name)) return false;
  errno = reason;
  return true;
}

}  // namespace

extern "C" {
int __real_open64(const char* path, int flags, ...);
ssize_t __real_pread64(int fd, void* bytes, size_t size, off64_t offset);
int __real_fstat64(int fd, struct stat64* status);
void* __real_mmap64(void* address, size_t size, int protection, int flags, int fd, off64_t offset);
int __real_mprotect(void* address, size_t size, int protection);
int __real_fcntl64(int fd, int command, ...);
int __real_madvise(void* address, size_t size, int advice);
void* __real_malloc(size_t size);
void* __real_calloc(size_t count, size_t size);

int __wrap_open64(const char* path, int flags, ...) {
  if (plan.interrupts("open") || fails_with("open", EACCES)) return -1;
  return __real_open64(path, flags);
}

ssize_t __wrap_pread64(int fd, void* bytes, size_t size, off64_t offset) {
  if (plan.interrupts("pread") || fails_with("pread", EIO)) return -1;
  if (plan.active && offset >= plan.shortened_to) return 0;
  if (plan.longest_read != 0 && size > plan.longest_read) size = plan.longest_read;
  return __real_pread64(fd, bytes, size, offset);
}

int __wrap_fstat64(int fd, struct stat64* status) {
  if (plan.interrupts("fstat") || fails_with("fstat", EIO)) return -1;
  return __real_fstat64(fd, status);
}

void* __wrap_mmap64(void* address, size_t size, int protection, int flags, int fd, off64_t offset) {
  if (fails_with("mmap", ENOMEM)) return MAP_FAILED;
  return __real_mmap64(address, size, protection, flags, fd, offset);
}

int __wrap_mprotect(void* address, size_t size, int protection) {
  if (fails_with("mprotect", ENOMEM)) return -1;
  return __real_mprotect(address, size, protection);
}

int __wrap_fcntl64(int fd, int command, int argument) {
  if (fails_with("fcntl", EMFILE)) return -1;
  return __real_fcntl64(fd, command, argument);
}

int __wrap_madvise(void* address, size_t size, int advice) {
  if (advice == kPopulateWrite && plan.active && plan.populate_error != 0) {
    errno = plan.populate_error;
    return -1;
  }
  return __real_madvise(address, size, advice);
}

void* __wrap_malloc(size_t size) { return plan.fails("malloc") ? nullptr : __real_malloc(size); }
void* __wrap_calloc(size_t count, size_t size) { return plan.fails("calloc") ? nullptr : __real_calloc(count, size); }
}

namespace corelocker::tests {
namespace {

const std::vector<TestRun> kRuns = {{100, 4, 8, 10}, {104, 4, 8, 10}, {5'000, 200, 200, 1}};
const Bytes kOriginal = noise(20'000, 1);
const Bytes kLocked = [] {
  Bytes bytes = kOriginal;
  for (const TestRun& run : kRuns) {
    for (uint32_t i = 0; i < run.count; i++) {
      for (uint32_t j = 0; j < run.length; j++) bytes[run.offset + i * run.stride + j] ^= 0xFF;
    }
  }
  return bytes;
}();

// An overlap check that needs memory: the strides differ, so residues decide
// nothing.
const std::vector<TestRun> kTangledRuns = {{0, 1, 6, 5}, {1, 1, 10, 3}};

corelocker_error open_with(const Plan& chosen, const char* path, uint32_t flags, FilePointer& file) {
  const Options options({TestPatch(kLocked, kOriginal, kRuns), TestPatch(kLocked, kOriginal, kTangledRuns)}, flags);
  plan = chosen;
  plan.active = true;
  corelocker_file* opened = nullptr;
  const corelocker_error error = corelocker_open_path(path, options.get(), &opened);
  plan.active = false;
  file.reset(opened);
  EXPECT_EQ(file != nullptr, error == CORELOCKER_OK);
  return error;
}

class Faults : public testing::TestWithParam<uint32_t> {};

TEST_P(Faults, EachFailingCallGivesAnErrorAndLeavesNothing) {
  const TemporaryFile on_disk(kLocked);
  FilePointer file;
  ASSERT_EQ(open_with({}, on_disk.path(), GetParam(), file), CORELOCKER_OK);
  const std::vector<std::string> calls = plan.made;
  EXPECT_GE(calls.size(), 7u);
  for (int i = 0; i < static_cast<int>(calls.size()); i++) {
    Plan failing;
    failing.failing_call = i;
    const corelocker_error error = open_with(failing, on_disk.path(), GetParam(), file);
    const std::string& call = calls[static_cast<size_t>(i)];
    const bool memory = call == "mmap" || call == "mprotect" || call == "malloc" || call == "calloc";
    EXPECT_EQ(error, memory ? CORELOCKER_MEMORY : CORELOCKER_FILE_ACCESS) << i << " " << call;
    if (call == "open") {
      EXPECT_EQ(errno, EACCES);
    }
    if (call == "fcntl") {
      EXPECT_EQ(errno, EMFILE);
    }
  }
  EXPECT_EQ(read_file(on_disk.path()), kLocked);
}

TEST_P(Faults, InterruptionsAndShortReadsChangeNothing) {
  const TemporaryFile on_disk(kLocked);
  Plan interrupted;
  interrupted.interruptions = {{"open", 2}, {"fstat", 2}, {"pread", GetParam() == CORELOCKER_COPY ? 2 : 0}};
  interrupted.longest_read = 7;
  FilePointer file;
  ASSERT_EQ(open_with(interrupted, on_disk.path(), GetParam(), file), CORELOCKER_OK);
  for (const auto& [call, left] : plan.interruptions) EXPECT_EQ(left, 0) << call;
  EXPECT_EQ(contents(file.get()), kOriginal);
}

TEST(FaultsOfReads, AFileThatEndsEarlyIsAnError) {
  const TemporaryFile on_disk(kLocked);
  Plan shortened;
  shortened.longest_read = 4'096;
  shortened.shortened_to = 8'192;
  FilePointer file;
  EXPECT_EQ(open_with(shortened, on_disk.path(), CORELOCKER_COPY, file), CORELOCKER_FILE_CHANGED);
}

// Where somebody shortens the file between mapping and patching, the kernel refuses to make the pages private.
TEST(FaultsOfPages, AreErrorsUnlessTheKernelIsOld) {
  const TemporaryFile on_disk(kLocked);
  for (const auto& [reason, expected] :
       {std::pair{EFAULT, CORELOCKER_FILE_CHANGED}, {ENOMEM, CORELOCKER_MEMORY}, {EINVAL, CORELOCKER_OK}}) {
    Plan refused;
    refused.populate_error = reason;
    FilePointer file;
    EXPECT_EQ(open_with(refused, on_disk.path(), 0, file), expected);
    if (expected == CORELOCKER_OK) {
      EXPECT_EQ(contents(file.get()), kOriginal);
    }
  }
}

// A region that the patch touches everywhere is read, and mapped around.
TEST(FaultsOfRegions, AreErrors) {
  constexpr uint32_t kRegion = 2 << 20;
  const Bytes original = noise(3 * size_t{kRegion}, 1);
  const std::vector<TestRun> runs = {{kRegion, kRegion, kRegion, 1}};
  Bytes locked = original;
  for (size_t i = kRegion; i < 2 * kRegion; i++) locked[i] ^= 0xFF;
  const TemporaryFile on_disk(locked);
  const TestPatch patch(locked, original, runs);
  const auto open_with = [&](const Plan& chosen) {
    const Options options({patch});
    plan = chosen;
    plan.active = true;
    corelocker_file* opened = nullptr;
    const corelocker_error error = corelocker_open_path(on_disk.path(), options.get(), &opened);
    plan.active = false;
    const FilePointer file(opened);
    if (error == CORELOCKER_OK) {
      EXPECT_TRUE(contents(opened) == original);
    }
    return error;
  };
  ASSERT_EQ(open_with({}), CORELOCKER_OK);
  const std::vector<std::string> calls = plan.made;
  EXPECT_EQ(std::count(calls.begin(), calls.end(), "mmap"), 3);
  bool path_is_open = false;
  for (int i = 0; i < static_cast<int>(calls.size()); i++) {
    Plan failing;
    failing.failing_call = i;
    const std::string& call = calls[static_cast<size_t>(i)];
    const bool file_access = call == "fstat" || call == "fcntl" || call == "pread" || (call == "open" && !path_is_open);
    // A system that does not tell of its huge pages has none.
    const bool question = call == "open" && path_is_open;
    path_is_open |= call == "open";
    EXPECT_EQ(open_with(failing), question      ? CORELOCKER_OK
                                  : file_access ? CORELOCKER_FILE_ACCESS
                                                : CORELOCKER_MEMORY)
        << i << " " << call;
  }
  Plan shortened;
  shortened.shortened_to = kRegion + 4'096;
  EXPECT_EQ(open_with(shortened), CORELOCKER_FILE_CHANGED);
  Plan slow;
  slow.interruptions = {{"pread", 2}};
  slow.longest_read = 70'000;
  EXPECT_EQ(open_with(slow), CORELOCKER_OK);
}

INSTANTIATE_TEST_SUITE_P(MappedAndCopied, Faults, testing::Values(0u, CORELOCKER_COPY));

TEST(FaultsInBuffers, LeaveThemAsTheyWere) {
  for (int i = 0; i < 3; i++) {
    const Options options({TestPatch(kLocked, kOriginal, kRuns)});
    Bytes buffer = kLocked;
    corelocker_file* file = nullptr;
    plan = {};
    plan.failing_call = i;
    plan.active = true;
    const corelocker_error error = corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file);
    plan.active = false;
    EXPECT_EQ(error, CORELOCKER_MEMORY) << plan.made.back();
    EXPECT_EQ(file, nullptr);
    EXPECT_EQ(buffer, kLocked);
  }
}

}  // namespace
}  // namespace corelocker::tests
