// Many threads open, use and close restored files of different tiers at once.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "fixture.h"

namespace corelocker::tests {
namespace {

constexpr int kThreads = 8;

// Rounds of each thread. The gates run few of them on every build; tools/soak-cpp.sh runs many.
int rounds() {
  const char* const wanted = std::getenv("CORELOCKER_ROUNDS");
  return wanted != nullptr ? std::stoi(wanted) : 100;
}

template <typename Work>
void run_in_threads(Work work) {
  std::vector<std::thread> threads;
  const int count = rounds();
  for (int thread = 0; thread < kThreads; thread++) {
    threads.emplace_back([=] {
      for (int round = 0; round < count && !testing::Test::HasFailure(); round++) work(thread, round);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Threads, OpenCheckAndCloseFiles) {
  const Fixture fixture = Fixture::load("xnnpack_fp32");
  std::vector<Bytes> expected;
  FilePointer file;
  for (size_t tier = 0; tier <= fixture.top(); tier++) {
    ASSERT_EQ(open_path(fixture.program.locked.c_str(), Options(fixture.program.up_to(tier)), file), CORELOCKER_OK);
    expected.push_back(contents(file.get()));
  }
  ASSERT_EQ(expected.back(), read_file(fixture.program.original));
  run_in_threads([&](int thread, int round) {
    const size_t tier = static_cast<size_t>(thread + round) % expected.size();
    const uint32_t flags = round % 7 == 0 ? CORELOCKER_COPY : 0;
    FilePointer opened;
    const Options options(fixture.program.up_to(tier), flags);
    ASSERT_EQ(open_path(fixture.program.locked.c_str(), options, opened), CORELOCKER_OK);
    ASSERT_EQ(contents(opened.get()), expected[tier]);
    ASSERT_EQ(corelocker_check(opened.get()), CORELOCKER_OK);
  });
}

// One handle, read by all.
TEST(Threads, ShareALoader) {
  const Fixture fixture = Fixture::load("xnnpack_fp32");
  const Bytes original = read_file(fixture.program.original);
  const Options options(fixture.program.up_to(fixture.top()));
  corelocker_file* file = nullptr;
  ASSERT_EQ(corelocker_open_path(fixture.program.locked.c_str(), options.get(), &file), CORELOCKER_OK);
  const RestoredDataLoader loader(file);
  const executorch::runtime::DataLoader::SegmentInfo info(executorch::runtime::DataLoader::SegmentInfo::Type::Constant);
  run_in_threads([&](int thread, int round) {
    const size_t offset = static_cast<size_t>(thread * 1000 + round) % (original.size() - 500);
    Bytes copy(500);
    ASSERT_EQ(loader.load_into(offset, copy.size(), info, copy.data()), Error::Ok);
    ASSERT_EQ(std::memcmp(copy.data(), original.data() + offset, copy.size()), 0);
    auto view = loader.load(offset, copy.size(), info);
    ASSERT_TRUE(view.ok());
    ASSERT_EQ(std::memcmp(view->data(), copy.data(), copy.size()), 0);
  });
}

TEST(Threads, OpenRunAndCloseModels) {
  const Fixture fixture = Fixture::load("xnnpack_int8");
  std::vector<Outputs> expected;
  for (size_t tier = 0; tier <= fixture.top(); tier++) expected.push_back(fixture.run(*fixture.restored(tier)));
  ASSERT_EQ(expected.back(), fixture.run(*fixture.original()));
  run_in_threads([&](int thread, int round) {
    const size_t tier = static_cast<size_t>(thread + round) % expected.size();
    ASSERT_EQ(fixture.run(*fixture.restored(tier)), expected[tier]);
  });
}

}  // namespace
}  // namespace corelocker::tests
