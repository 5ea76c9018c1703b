// Opening files, descriptors and buffers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "two_tiers.h"

namespace corelocker::tests {
namespace {

bool all_zero(const Bytes& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

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
  EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_full, tiers.to_plus}), file), CORELOCKER_RESTORE_RESTORED);
  EXPECT_EQ(open_path(tiers.file.path(), Options({tiers.to_full}), file), CORELOCKER_RESTORE_RESTORED);
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
  // One flipped bit at the end of a run is enough; elsewhere only a full check can see it.
  for (const bool sampled : {true, false}) {
    Bytes damaged = tiers.locked;
    damaged[sampled ? 54'990 : 60'000] ^= 1;
    const TemporaryFile damaged_file(damaged);
    EXPECT_EQ(open_path(damaged_file.path(), Options({tiers.to_plus}), file),
              sampled ? CORELOCKER_RESTORE_REPLACED : CORELOCKER_OK);
    const Options full_check({tiers.to_plus}, 0, CORELOCKER_FULL_CHECK_ALWAYS);
    EXPECT_EQ(open_path(damaged_file.path(), full_check, file),
              sampled ? CORELOCKER_RESTORE_REPLACED : CORELOCKER_RESTORE_RESTORED);
  }
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
  EXPECT_EQ(open_path(tiers.file.path(), refused, file), CORELOCKER_RESTORE_RESTORED);
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
  EXPECT_EQ(open_with([](Options& o) { o.entries[0].locked_sample = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.entries[0].restored_sample = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) { o.entries[0].restored_sha256 = nullptr; }), CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) {
              const uint32_t unknown = 4;
              std::memcpy(&o.options.full_check, &unknown, sizeof(unknown));
            }),
            CORELOCKER_ARGUMENT);
  EXPECT_EQ(open_with([](Options& o) {
              o.options.patch_count = 0;
              o.options.full_check = CORELOCKER_FULL_CHECK_ALWAYS;  // of a locked file whose digest is not given
            }),
            CORELOCKER_ARGUMENT);
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
  const TestPatch patch(encode_patch({}, {}), Bytes(), Bytes());
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
  TestPatch other = tiers.to_full;
  other.locked_sample[0] ^= 1;
  for (const auto& [second, expected] :
       {std::pair{forged, CORELOCKER_RESTORE_RESTORED}, std::pair{other, CORELOCKER_RESTORE_REPLACED},
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
                                                          {26, "patch-version"},
                                                          {27, "patch-kind"},
                                                          {28, "patch-table"},
                                                          {29, "patch-padding"},
                                                          {32, "restore-size"},
                                                          {33, "restore-already"},
                                                          {34, "restore-replaced"},
                                                          {35, "restore-restored"}};
  for (const auto& [value, name] : names) {
    EXPECT_EQ(corelocker_error_name(static_cast<corelocker_error>(value)), name);
    EXPECT_GT(std::strlen(corelocker_error_text(static_cast<corelocker_error>(value))), 7u);
  }
  EXPECT_STREQ(corelocker_error_name(CORELOCKER_RESTORE_RESTORED), "restore-restored");
  EXPECT_EQ(corelocker_version(), 0x020000u);
}

}  // namespace
}  // namespace corelocker::tests
