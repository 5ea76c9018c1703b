// Samples, the full check in its modes, and the stamps that `once` remembers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "two_tiers.h"

namespace corelocker::tests {
namespace {

using Stamp = std::array<uint8_t, CORELOCKER_STAMP_SIZE>;

// A file with a run that flips a sign, for which a full check is the default.
struct FlippedFile {
  explicit FlippedFile(uint64_t seed) : locked(noise(kFileSize, seed)) {}

  const Bytes patch = encode_patch({{40'000, 4'000, 4'000, 1, 1, 32}}, Bytes(125, 0xA5));
  const Bytes locked;
  const Bytes restored = reference::apply(locked, patch);
  const TestPatch section{patch, locked, restored};
  const TemporaryFile file{locked};
};

// Whether opening the file reads all of it.
bool reads_all(const char* path, const TestPatch& section, corelocker_full_check mode) {
  const Options options({section}, 0, mode);
  FilePointer file;
  EXPECT_EQ(open_path(path, options, file), CORELOCKER_OK);
  return options.largest_hashed() == kFileSize;
}

void forget_all_stamps() {
  for (uint8_t i = 0; i < CORELOCKER_STAMP_CAPACITY; i++) {
    Stamp other{};
    other[0] = i;
    ASSERT_EQ(corelocker_remember_stamp(other.data(), other.size()), CORELOCKER_OK);
  }
}

TEST(FullCheck, IsDoneOnceWhereARunFlips) {
  const FlippedFile flipped(1);
  EXPECT_TRUE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_DEFAULT));
  EXPECT_FALSE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_DEFAULT));
  EXPECT_FALSE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  EXPECT_TRUE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ALWAYS));
  EXPECT_FALSE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_OFF));
  const TwoTiers tiers;
  EXPECT_FALSE(reads_all(tiers.file.path(), tiers.to_plus, CORELOCKER_FULL_CHECK_DEFAULT));
  EXPECT_TRUE(reads_all(tiers.file.path(), tiers.to_plus, CORELOCKER_FULL_CHECK_ONCE));
}

TEST(FullCheck, FindsAChangedByteAnywhere) {
  const FlippedFile flipped(2);
  Bytes damaged = flipped.locked;
  damaged[60'000] ^= 1;
  const TemporaryFile file(damaged);
  FilePointer opened;
  EXPECT_EQ(open_path(file.path(), Options({flipped.section}, 0, CORELOCKER_FULL_CHECK_OFF), opened), CORELOCKER_OK);
  for (int i = 0; i < 2; i++) {  // what has failed is not remembered
    EXPECT_EQ(open_path(file.path(), Options({flipped.section}), opened), CORELOCKER_RESTORE_RESTORED);
  }
  Bytes buffer = damaged;
  const Options options({flipped.section});
  corelocker_file* handle = nullptr;
  EXPECT_EQ(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &handle), CORELOCKER_RESTORE_RESTORED);
  EXPECT_EQ(buffer, damaged);
}

TEST(FullCheck, IsDoneAgainWhenTheFileIsAnother) {
  const FlippedFile flipped(3);
  const char* const path = flipped.file.path();
  EXPECT_TRUE(reads_all(path, flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  // Another modification time.
  const timespec times[2] = {{1'000'000'000, 1}, {1'000'000'000, 1}};
  ASSERT_EQ(utimensat(AT_FDCWD, path, times, 0), 0);
  EXPECT_TRUE(reads_all(path, flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  EXPECT_FALSE(reads_all(path, flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  const timespec later[2] = {{1'000'000'000, 2}, {1'000'000'000, 2}};
  ASSERT_EQ(utimensat(AT_FDCWD, path, later, 0), 0);
  EXPECT_TRUE(reads_all(path, flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  // Another inode with the same time.
  const std::string copy = std::string(path) + ".copy";
  std::ofstream(copy, std::ios::binary)
      .write(reinterpret_cast<const char*>(flipped.locked.data()), static_cast<std::streamsize>(kFileSize));
  ASSERT_EQ(utimensat(AT_FDCWD, copy.c_str(), later, 0), 0);
  EXPECT_TRUE(reads_all(copy.c_str(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  unlink(copy.c_str());
  // Another digest: the same file in another tier.
  const TwoTiers tiers;
  FilePointer file;
  EXPECT_TRUE(reads_all(tiers.file.path(), tiers.to_plus, CORELOCKER_FULL_CHECK_ONCE));
  const Options full({tiers.to_plus, tiers.to_full}, 0, CORELOCKER_FULL_CHECK_ONCE);
  ASSERT_EQ(open_path(tiers.file.path(), full, file), CORELOCKER_OK);
  EXPECT_EQ(full.largest_hashed(), kFileSize);
  EXPECT_FALSE(reads_all(tiers.file.path(), tiers.to_plus, CORELOCKER_FULL_CHECK_ONCE));
}

// The same model twice in a package: the part that was checked is not the other one.
TEST(FullCheck, TellsPartsOfAFileApart) {
  const FlippedFile flipped(4);
  Bytes package = noise(4'096, 1);
  package.insert(package.end(), flipped.locked.begin(), flipped.locked.end());
  package.resize(4'096 * 32);
  package.insert(package.end(), flipped.locked.begin(), flipped.locked.end());
  package[4'096 * 32 + 60'000] ^= 1;
  const TemporaryFile on_disk(package);
  const int fd = open(on_disk.path(), O_RDONLY);
  const auto open_at = [&](uint64_t offset) {
    const Options options({flipped.section});
    corelocker_file* file = nullptr;
    const corelocker_error error = corelocker_open_fd(fd, offset, kFileSize, options.get(), &file);
    corelocker_close(file);
    return error;
  };
  EXPECT_EQ(open_at(4'096), CORELOCKER_OK);
  EXPECT_EQ(open_at(4'096 * 32), CORELOCKER_RESTORE_RESTORED);
  close(fd);
}

TEST(FullCheck, WorksOnTheLockedFile) {
  const TwoTiers tiers;
  const Digest digest = sha256(tiers.locked);
  FilePointer file;
  for (const bool right : {true, false}) {
    Digest expected = digest;
    if (!right) expected[0] ^= 1;
    Options options({}, 0, CORELOCKER_FULL_CHECK_ALWAYS);
    options.options.locked_sha256 = expected.data();
    EXPECT_EQ(open_path(tiers.file.path(), options, file), right ? CORELOCKER_OK : CORELOCKER_RESTORE_RESTORED);
    EXPECT_EQ(options.largest_hashed(), kFileSize);
  }
}

TEST(Stamps, OutliveTheirProcess) {
  const FlippedFile flipped(5);
  const Options options({flipped.section}, CORELOCKER_COPY);
  FilePointer file;
  ASSERT_EQ(open_path(flipped.file.path(), options, file), CORELOCKER_OK);
  Stamp stamp{};
  ASSERT_EQ(corelocker_get_stamp(file.get(), stamp.data()), 1);
  forget_all_stamps();
  EXPECT_TRUE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  forget_all_stamps();
  ASSERT_EQ(corelocker_remember_stamp(stamp.data(), stamp.size()), CORELOCKER_OK);
  EXPECT_FALSE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  // One that was remembered and not checked now is handed out as well.
  ASSERT_EQ(open_path(flipped.file.path(), Options({flipped.section}), file), CORELOCKER_OK);
  Stamp again{};
  ASSERT_EQ(corelocker_get_stamp(file.get(), again.data()), 1);
  EXPECT_EQ(again, stamp);
  EXPECT_EQ(std::memcmp(stamp.data() + CORELOCKER_STAMP_SIZE - 32, sha256(flipped.restored).data(), 32), 0);
}

TEST(Stamps, AreOnlyGivenForCheckedFiles) {
  const FlippedFile flipped(6);
  Stamp stamp{};
  const Stamp untouched = stamp;
  FilePointer file;
  ASSERT_EQ(open_path(flipped.file.path(), Options({flipped.section}, 0, CORELOCKER_FULL_CHECK_OFF), file),
            CORELOCKER_OK);
  EXPECT_EQ(corelocker_get_stamp(file.get(), stamp.data()), 0);
  Bytes buffer = flipped.locked;
  const Options options({flipped.section});
  corelocker_file* of_buffer = nullptr;
  ASSERT_EQ(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &of_buffer), CORELOCKER_OK);
  EXPECT_EQ(options.largest_hashed(), kFileSize);  // there is nothing by which a buffer could be remembered
  EXPECT_EQ(corelocker_get_stamp(of_buffer, stamp.data()), 0);
  corelocker_close(of_buffer);
  EXPECT_EQ(stamp, untouched);
}

TEST(Stamps, AreBounded) {
  const FlippedFile flipped(7);
  forget_all_stamps();
  EXPECT_TRUE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  for (uint8_t i = 0; i + 1 < CORELOCKER_STAMP_CAPACITY; i++) {
    Stamp other{};
    other[1] = i;
    for (int twice = 0; twice < 2; twice++) {
      ASSERT_EQ(corelocker_remember_stamp(other.data(), other.size()), CORELOCKER_OK);
    }
  }
  EXPECT_FALSE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));  // and is the latest now
  Stamp other{};
  other[2] = 1;
  ASSERT_EQ(corelocker_remember_stamp(other.data(), other.size()), CORELOCKER_OK);
  EXPECT_FALSE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
  forget_all_stamps();
  EXPECT_TRUE(reads_all(flipped.file.path(), flipped.section, CORELOCKER_FULL_CHECK_ONCE));
}

// Threads that check the same files, and hand back stamps of others.
TEST(Stamps, AreSharedByThreads) {
  const FlippedFile first(8);
  const FlippedFile second(9);
  std::vector<std::thread> threads;
  for (uint8_t number = 0; number < 4; number++) {
    threads.emplace_back([&, number] {
      for (uint8_t round = 0; round < 50; round++) {
        const FlippedFile& flipped = round % 2 == 0 ? first : second;
        FilePointer file;
        ASSERT_EQ(open_path(flipped.file.path(), Options({flipped.section}), file), CORELOCKER_OK);
        ASSERT_EQ(contents(file.get()), flipped.restored);
        Stamp stamp{};
        ASSERT_EQ(corelocker_get_stamp(file.get(), stamp.data()), 1);
        stamp[0] = round;
        stamp[1] = number;
        ASSERT_EQ(corelocker_remember_stamp(stamp.data(), stamp.size()), CORELOCKER_OK);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Stamps, RefuseAnotherSize) {
  const Stamp stamp{};
  EXPECT_EQ(corelocker_remember_stamp(nullptr, stamp.size()), CORELOCKER_ARGUMENT);
  EXPECT_EQ(corelocker_remember_stamp(stamp.data(), stamp.size() - 1), CORELOCKER_ARGUMENT);
  EXPECT_EQ(corelocker_remember_stamp(stamp.data(), stamp.size() + 1), CORELOCKER_ARGUMENT);
}

}  // namespace
}  // namespace corelocker::tests
