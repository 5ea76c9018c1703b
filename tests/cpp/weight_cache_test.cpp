// XNNPACK's weight cache shares packed weights between modules by their names in the .pte. Android's and Apple's builds
// have it on; here it is switched on. Each tier must have names of its own for what it changes, or a restored module
// computes with locked weights.
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "fixture.h"

namespace corelocker::tests {
namespace {

void set_weight_cache(bool enabled) {
  executorch::runtime::BackendOptions<1> options;
  ASSERT_EQ(options.set_option("weight_cache_enabled", enabled), Error::Ok);
  ASSERT_EQ(executorch::runtime::set_option("XnnpackBackend", options.view()), Error::Ok);
}

class WeightCache : public testing::TestWithParam<std::string> {};

TEST_P(WeightCache, DoesNotMixTiers) {
  const Fixture fixture = Fixture::load(GetParam());
  std::vector<Outputs> expected;
  set_weight_cache(false);
  for (size_t tier = 0; tier <= fixture.top(); tier++) expected.push_back(fixture.run(*fixture.restored(tier)));
  ASSERT_EQ(expected.back(), fixture.run(*fixture.original()));

  // Every order in which the tiers can be opened, all staying alive.
  set_weight_cache(true);
  std::vector<size_t> order(fixture.top() + 1);
  std::iota(order.begin(), order.end(), size_t{0});
  do {
    std::vector<std::unique_ptr<RestoredModule>> alive;
    for (const size_t tier : order) {
      alive.push_back(fixture.restored(tier));
      EXPECT_EQ(fixture.run(*alive.back()), expected[tier]) << "tier " << tier << " opened as number " << alive.size();
    }
    for (size_t i = 0; i < order.size(); i++) EXPECT_EQ(fixture.run(*alive[i]), expected[order[i]]);
  } while (std::next_permutation(order.begin(), order.end()));

  // Beside the original too, with which the restored model may share.
  const auto original = fixture.original();
  const auto locked = fixture.restored(0);
  EXPECT_EQ(fixture.run(*original), expected.back());
  EXPECT_EQ(fixture.run(*locked), expected.front());
  EXPECT_EQ(fixture.run(*fixture.restored(fixture.top())), expected.back());
  set_weight_cache(false);
}

std::vector<std::string> xnnpack_fixtures() {
  std::vector<std::string> names = fixture_names();
  names.erase(std::remove_if(names.begin(), names.end(), [](const auto& name) { return name.find("xnnpack") != 0; }),
              names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, WeightCache, testing::ValuesIn(xnnpack_fixtures()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace corelocker::tests
