// tests/vectors/patch.json: the verdicts and the restored bytes that every
// implementation agrees on.
#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support.h"

namespace corelocker::tests {
namespace {

using Json = nlohmann::json;

Bytes from_base64(const std::string& text) {
  Bytes bytes(text.size() / 4 * 3);
  const auto* const input = reinterpret_cast<const unsigned char*>(text.data());
  const int size = EVP_DecodeBlock(bytes.data(), input, static_cast<int>(text.size()));
  EXPECT_EQ(size, static_cast<int>(bytes.size()));
  bytes.resize(bytes.size() - static_cast<size_t>(std::count(text.begin(), text.end(), '=')));
  return bytes;
}

Digest from_hex(const std::string& hex) {
  Digest digest;
  EXPECT_EQ(hex.size(), 2 * digest.size());
  for (size_t i = 0; i < digest.size(); i++) {
    digest[i] = static_cast<uint8_t>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
  }
  return digest;
}

Json load_vectors() {
  std::ifstream stream(CORELOCKER_VECTORS "/patch.json");
  return Json::parse(stream).at("vectors");
}

class PatchVector : public testing::TestWithParam<Json> {};

TEST_P(PatchVector, HasTheExpectedVerdict) {
  const Json& vector = GetParam();
  // An exact-size heap block lets a sanitizer see a read past the end.
  const Bytes patch = from_base64(vector.at("patch"));
  const corelocker_error error = corelocker_check_patch(patch.data(), patch.size(), vector.at("file_size"));
  EXPECT_EQ(corelocker_error_name(error), vector.at("expect").get<std::string>()) << vector.at("comment");
}

// Both ways into memory: a mapped file and the caller's buffer.
TEST_P(PatchVector, RestoresTheFileOrLeavesIt) {
  const Json& vector = GetParam();
  if (!vector.contains("file")) return;
  const Bytes locked = from_base64(vector.at("file"));
  const std::string expected = vector.at("expect");
  const bool ok = expected == "ok";
  const Bytes restored = ok ? from_base64(vector.at("restored")) : locked;
  TestPatch patch = TestPatch::of_bytes(from_base64(vector.at("patch")));
  if (ok) {
    patch.locked_sample = from_hex(vector.at("sample"));
    patch.restored_sample = from_hex(vector.at("restored_sample"));
    patch.restored_sha256 = sha256(restored);
  }

  const TemporaryFile on_disk(locked);
  for (const uint32_t flags : {0u, CORELOCKER_COPY}) {
    const Options options({patch}, flags, CORELOCKER_FULL_CHECK_ALWAYS);
    FilePointer file;
    EXPECT_EQ(corelocker_error_name(open_path(on_disk.path(), options, file)), expected);
    if (ok) {
      EXPECT_EQ(contents(file.get()), restored);
    }
    EXPECT_EQ(read_file(on_disk.path()), locked);
  }

  Bytes buffer = locked;
  const Options options({patch});
  corelocker_file* file = nullptr;
  EXPECT_EQ(corelocker_error_name(corelocker_open_buffer(buffer.data(), buffer.size(), options.get(), &file)),
            expected);
  EXPECT_EQ(buffer, restored);
  corelocker_close(file);
}

INSTANTIATE_TEST_SUITE_P(All, PatchVector, testing::ValuesIn(load_vectors().get<std::vector<Json>>()),
                         [](const auto& info) {
                           std::string name = info.param.at("name");
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace corelocker::tests
