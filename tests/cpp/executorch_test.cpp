// Restored models give the original's output bit for bit, on every backend and through every way into memory.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "fixture.h"

namespace corelocker::tests {
namespace {

using executorch::runtime::DataLoader;

constexpr auto kInfo = DataLoader::SegmentInfo::Type::Constant;

class Model : public testing::TestWithParam<std::string> {
 protected:
  const Fixture fixture_ = Fixture::load(GetParam());
};

TEST_P(Model, IsBitExactAfterRestoring) {
  const Outputs expected = fixture_.run(*fixture_.original());
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(fixture_.run(*fixture_.restored(fixture_.top())), expected);
  EXPECT_EQ(fixture_.run(*fixture_.restored(fixture_.top(), CORELOCKER_COPY)), expected);
  for (size_t tier = 0; tier < fixture_.top(); tier++) {
    EXPECT_NE(fixture_.run(*fixture_.restored(tier)), expected) << "tier " << tier;
  }
}

TEST_P(Model, KeepsItsTiersApart) {
  std::vector<std::unique_ptr<RestoredModule>> alive;
  std::vector<Outputs> alone;
  for (size_t tier = 0; tier <= fixture_.top(); tier++) {
    alone.push_back(fixture_.run(*fixture_.restored(tier)));
    alive.push_back(fixture_.restored(tier));
  }
  for (int round = 0; round < 2; round++) {
    for (size_t tier = 0; tier <= fixture_.top(); tier++) {
      EXPECT_EQ(fixture_.run(*alive[tier]), alone[tier]) << tier;
    }
  }
  EXPECT_NE(alone.front(), alone.back());
}

// An asset inside a package: mapped at an aligned place, copied at another.
TEST_P(Model, RunsFromInsideAnotherFile) {
  if (fixture_.data) GTEST_SKIP() << "one file is enough";
  const Outputs expected = fixture_.run(*fixture_.original());
  for (const size_t offset : {size_t{4096 + 64}, size_t{30}}) {
    Bytes package = noise(offset, 1);
    const Bytes locked = read_file(fixture_.program.locked);
    package.insert(package.end(), locked.begin(), locked.end());
    const Bytes behind = noise(999, 2);
    package.insert(package.end(), behind.begin(), behind.end());
    const TemporaryFile on_disk(package);
    const int fd = open(on_disk.path(), O_RDONLY);
    const Options options(fixture_.program.up_to(fixture_.top()));
    corelocker_file* file = nullptr;
    ASSERT_EQ(corelocker_open_fd(fd, offset, locked.size(), options.get(), &file), CORELOCKER_OK);
    close(fd);
    RestoredModule module(file);
    EXPECT_EQ(fixture_.run(module), expected);
  }
}

TEST_P(Model, RunsFromABuffer) {
  if (fixture_.data) GTEST_SKIP() << "one file is enough";
  Bytes buffer = read_file(fixture_.program.locked);
  const Options options(fixture_.program.up_to(fixture_.top()));
  corelocker_file* file = nullptr;
  ASSERT_EQ(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file), CORELOCKER_OK);
  RestoredModule module(file);
  EXPECT_EQ(fixture_.run(module), fixture_.run(*fixture_.original()));
  EXPECT_EQ(buffer, read_file(fixture_.program.original));
}

TEST_P(Model, RunsTwiceFromOneMapping) {
  if (fixture_.data) GTEST_SKIP() << "one file is enough";
  const Options options(fixture_.program.up_to(fixture_.top()));
  corelocker_file* file = nullptr;
  ASSERT_EQ(corelocker_open_path(fixture_.program.locked.c_str(), options.get(), &file), CORELOCKER_OK);
  int closed = 0;
  {
    std::shared_ptr<corelocker_file> shared(file, [&closed](corelocker_file* handle) {
      corelocker_close(handle);
      closed++;
    });
    auto first = std::make_unique<RestoredModule>(shared);
    RestoredModule second(std::move(shared));
    first.reset();
    EXPECT_EQ(fixture_.run(second), fixture_.run(*fixture_.original()));
    EXPECT_EQ(closed, 0);
  }
  EXPECT_EQ(closed, 1);
}

TEST_P(Model, CostsOnlyTouchedPages) {
  const auto module = fixture_.restored(fixture_.top());
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const auto pages_of = [&](const corelocker_file* file) { return (corelocker_size(file) + page - 1) / page; };
  uint64_t touched = 0;
  for (const corelocker_file* file : {module->program_file(), module->data_file()}) {
    if (file == nullptr) continue;
    touched += corelocker_private_bytes(file);
    EXPECT_LE(corelocker_private_bytes(file), pages_of(file) * page);
  }
  EXPECT_GT(touched, 0u);
}

TEST_P(Model, RefusesTheWrongBundle) {
  Bytes other = read_file(fixture_.program.locked);
  const std::vector<TestPatch> patches = fixture_.program.up_to(fixture_.top());
  if (patches.empty()) GTEST_SKIP() << "nothing of the program is locked";
  const TemporaryFile restored_already(read_file(fixture_.program.original));
  corelocker_error reason = CORELOCKER_OK;
  const Options first(patches);
  EXPECT_EQ(RestoredModule::open(restored_already.path(), first.get(), nullptr, nullptr, &reason).error(),
            Error::InvalidExternalData);
  EXPECT_EQ(reason, CORELOCKER_RESTORE_ALREADY);
  for (uint8_t& byte : other) byte ^= 0x5A;
  const TemporaryFile unrelated(other);
  const Options second(patches);
  EXPECT_EQ(RestoredModule::open(unrelated.path(), second.get(), nullptr, nullptr, &reason).error(),
            Error::InvalidExternalData);
  EXPECT_EQ(reason, CORELOCKER_RESTORE_REPLACED);
}

// Whoever shortens or overwrites the file gets the app an error, never a crash or another answer.
TEST_P(Model, RefusesAChangedFile) {
  if (fixture_.data) GTEST_SKIP() << "one file is enough";
  const Bytes locked = read_file(fixture_.program.locked);
  const Outputs expected = fixture_.run(*fixture_.original());
  for (const bool loaded : {false, true}) {
    for (const bool shorten : {false, true}) {
      const TemporaryFile on_disk(locked);
      const Options options(fixture_.program.up_to(fixture_.top()));
      auto opened = RestoredModule::open(on_disk.path(), options.get());
      ASSERT_TRUE(opened.ok());
      RestoredModule& module = **opened;
      if (loaded) {
        EXPECT_EQ(fixture_.run(module), expected);
      }
      if (shorten) {
        ASSERT_EQ(truncate(on_disk.path(), 4096), 0);
      } else {
        const int fd = open(on_disk.path(), O_WRONLY);
        ASSERT_EQ(pwrite(fd, "x", 1, static_cast<off_t>(locked.size() / 2)), 1);
        close(fd);
      }
      if (!loaded) {
        EXPECT_EQ(module.load_method("forward"), Error::AccessFailed);
      }
      EXPECT_EQ(module.forward().error(), Error::AccessFailed);
    }
  }
  // A new file under the old name is no change.
  const TemporaryFile on_disk(locked);
  const Options options(fixture_.program.up_to(fixture_.top()));
  auto opened = RestoredModule::open(on_disk.path(), options.get());
  ASSERT_TRUE(opened.ok());
  unlink(on_disk.path());
  std::ofstream(on_disk.path()) << "another model";
  EXPECT_EQ(fixture_.run(**opened), expected);
}

INSTANTIATE_TEST_SUITE_P(All, Model, testing::ValuesIn(fixture_names()), [](const auto& info) { return info.param; });

TEST(Loader, HandsOutTheBytes) {
  const Fixture fixture = Fixture::load("xnnpack_fp32");
  const Bytes original = read_file(fixture.program.original);
  const Options options(fixture.program.up_to(fixture.top()));
  corelocker_file* file = nullptr;
  ASSERT_EQ(corelocker_open_path(fixture.program.locked.c_str(), options.get(), &file), CORELOCKER_OK);
  const RestoredDataLoader loader(file);
  const DataLoader::SegmentInfo info(kInfo);
  ASSERT_EQ(*loader.size(), original.size());

  auto all = loader.load(0, original.size(), info);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->data(), corelocker_data(file)) << "a copy";
  EXPECT_EQ(std::memcmp(all->data(), original.data(), original.size()), 0);
  all->Free();

  Bytes part(1000, 0xEE);
  EXPECT_EQ(loader.load_into(77, 990, info, part.data()), Error::Ok);
  EXPECT_EQ(std::memcmp(part.data(), original.data() + 77, 990), 0);
  EXPECT_EQ(part[990], 0xEE);

  EXPECT_TRUE(loader.load(original.size(), 0, info).ok());
  EXPECT_EQ(loader.load(original.size(), 1, info).error(), Error::InvalidArgument);
  EXPECT_EQ(loader.load(original.size() + 1, 0, info).error(), Error::InvalidArgument);
  EXPECT_EQ(loader.load(1, SIZE_MAX, info).error(), Error::InvalidArgument);
  EXPECT_EQ(loader.load(SIZE_MAX, 2, info).error(), Error::InvalidArgument);
  EXPECT_EQ(loader.load_into(1, SIZE_MAX, info, part.data()), Error::InvalidArgument);
  EXPECT_EQ(loader.load_into(0, 1, info, nullptr), Error::InvalidArgument);
}

TEST(Loader, TellsErrorsApart) {
  EXPECT_EQ(to_executorch_error(CORELOCKER_OK), Error::Ok);
  EXPECT_EQ(to_executorch_error(CORELOCKER_ARGUMENT), Error::InvalidArgument);
  EXPECT_EQ(to_executorch_error(CORELOCKER_MEMORY), Error::MemoryAllocationFailed);
  EXPECT_EQ(to_executorch_error(CORELOCKER_FILE_ACCESS), Error::AccessFailed);
  EXPECT_EQ(to_executorch_error(CORELOCKER_PATCH_MAGIC), Error::InvalidExternalData);
  corelocker_error reason = CORELOCKER_OK;
  EXPECT_EQ(RestoredModule::open("/nonexistent", nullptr, nullptr, nullptr, &reason).error(), Error::AccessFailed);
  EXPECT_EQ(reason, CORELOCKER_FILE_ACCESS);
}

}  // namespace
}  // namespace corelocker::tests
