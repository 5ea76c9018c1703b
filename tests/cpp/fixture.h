// A model that make_fixtures.py exported and locked, and how to run its states.
#pragma once

#include <executorch/extension/module/module.h>

#include <array>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "corelocker/executorch.h"
#include "support.h"

namespace corelocker::tests {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;

// The bytes of a model's outputs, or the error that running it gave.
using Outputs = std::vector<Bytes>;

inline Digest digest_of_hex(const std::string& hex) {
  Digest digest;
  EXPECT_EQ(hex.size(), 2 * digest.size());
  for (size_t i = 0; i < digest.size(); i++) {
    digest[i] = static_cast<uint8_t>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
  }
  return digest;
}

// Where make_fixtures.py has put them; the variable is for fixtures made otherwise (--no-rekey).
inline std::string fixtures_folder() {
  const char* const folder = getenv("CORELOCKER_FIXTURES");
  return folder != nullptr ? folder : CORELOCKER_FIXTURES;
}

// One file of a fixture: a .pte or a .ptd.
struct FixtureFile {
  std::string original;
  std::string locked;
  std::vector<std::optional<TestPatch>> patches;  // of tier 1, 2, ..; none where a tier changes nothing in this file

  FixtureFile(const std::string& folder, const nlohmann::json& description)
      : original(folder + "/" + description.at("original").get<std::string>()),
        locked(folder + "/" + description.at("locked").get<std::string>()) {
    for (const auto& patch : description.at("patches")) {
      if (patch.is_null()) {
        patches.emplace_back();
        continue;
      }
      TestPatch section = TestPatch::of_bytes(read_file(folder + "/" + patch.at("file").get<std::string>()));
      section.locked_sample = digest_of_hex(patch.at("locked_sample"));
      section.restored_sample = digest_of_hex(patch.at("restored_sample"));
      section.restored_sha256 = digest_of_hex(patch.at("restored_sha256"));
      patches.push_back(section);
    }
  }

  // What restores the file to `tier`.
  std::vector<TestPatch> up_to(size_t tier) const {
    std::vector<TestPatch> chosen;
    for (size_t i = 0; i < tier; i++) {
      if (patches[i]) chosen.push_back(*patches[i]);
    }
    return chosen;
  }
};

struct Fixture {
  std::string name;
  std::vector<int> sizes;
  Bytes input;
  FixtureFile program;
  std::optional<FixtureFile> data;

  static Fixture load(const std::string& name) {
    const std::string folder = fixtures_folder() + "/" + name;
    std::ifstream stream(folder + "/fixture.json");
    const auto description = nlohmann::json::parse(stream);
    Fixture fixture{name,
                    description.at("sizes").get<std::vector<int>>(),
                    read_file(folder + "/" + description.at("input").get<std::string>()),
                    FixtureFile(folder, description.at("program")),
                    {}};
    if (!description.at("data").is_null()) fixture.data.emplace(folder, description.at("data"));
    return fixture;
  }

  size_t top() const { return program.patches.size(); }

  // The original files by ExecuTorch's own loaders.
  std::unique_ptr<Module> original() const {
    if (data) return std::make_unique<Module>(program.original, data->original);
    return std::make_unique<Module>(program.original);
  }

  // The locked files restored to `tier`; 0 leaves them locked.
  std::unique_ptr<RestoredModule> restored(size_t tier, uint32_t flags = 0) const {
    const Options program_options(program.up_to(tier), flags);
    const Options data_options(data ? data->up_to(tier) : std::vector<TestPatch>{}, flags);
    corelocker_error reason = CORELOCKER_OK;
    auto module = RestoredModule::open(program.locked.c_str(), program_options.get(),
                                       data ? data->locked.c_str() : nullptr, data_options.get(), &reason);
    EXPECT_EQ(reason, CORELOCKER_OK) << corelocker_error_name(reason);
    return module.ok() ? std::move(*module) : nullptr;
  }

  Outputs run(Module& module) const {
    Bytes bytes = input;
    std::vector<int> dimensions = sizes;
    std::vector<executorch::aten::DimOrderType> order(sizes.size());
    std::iota(order.begin(), order.end(), executorch::aten::DimOrderType{0});
    TensorImpl tensor(ScalarType::Float, static_cast<ssize_t>(dimensions.size()), dimensions.data(), bytes.data(),
                      order.data());
    const auto result = module.forward(EValue(Tensor(&tensor)));
    EXPECT_EQ(result.error(), Error::Ok) << name;
    Outputs outputs;
    if (!result.ok()) return outputs;
    for (const EValue& value : *result) {
      const Tensor& output = value.toTensor();
      const auto* const data_of_output = static_cast<const uint8_t*>(output.const_data_ptr());
      outputs.emplace_back(data_of_output, data_of_output + output.nbytes());
    }
    return outputs;
  }
};

inline std::vector<std::string> fixture_names() {
  std::ifstream stream(fixtures_folder() + "/fixtures.json");
  return nlohmann::json::parse(stream).get<std::vector<std::string>>();
}

}  // namespace corelocker::tests
