// libFuzzer target: the patch parser, the apply path and the samples on hostile patches.
//
// Input: u16 length of the file (little-endian), then the patch. The file is made up; a patch that is accepted must
// change exactly what its runs say, and one that is refused must change nothing.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../reference.h"
#include "corelocker/corelocker.h"

namespace {

using corelocker::tests::Bytes;
using corelocker::tests::reference::apply;
using corelocker::tests::reference::read;
using corelocker::tests::reference::require;
using corelocker::tests::reference::sample;

// In place of SHA-256: what it is taken of must be one of the two samples, the locked one first.
struct ExpectedSamples {
  Bytes locked;
  Bytes restored;
  int taken = 0;
};

int take_sample(void* context, const void* bytes, size_t size, uint8_t digest[32]) {
  auto* const samples = static_cast<ExpectedSamples*>(context);
  const Bytes& expected = samples->taken++ == 0 ? samples->locked : samples->restored;
  require(size == expected.size() && std::memcmp(bytes, expected.data(), size) == 0);
  std::memset(digest, samples->taken, 32);
  return 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  Bytes file(read(data, 2));
  for (size_t i = 0; i < file.size(); i++) file[i] = static_cast<uint8_t>(i * 7);
  const Bytes before = file;
  const Bytes patch(data + 2, data + size);

  const corelocker_error verdict = corelocker_check_patch(patch.data(), patch.size(), file.size());
  const Bytes after = verdict == CORELOCKER_OK ? apply(before, patch) : before;
  ExpectedSamples samples;
  if (verdict == CORELOCKER_OK) samples = {sample(before, patch), sample(after, patch)};
  Bytes consumed = patch;
  uint8_t digests[2][32];
  std::memset(digests[0], 1, 32);
  std::memset(digests[1], 2, 32);
  corelocker_patch entry = {consumed.data(), consumed.size(), digests[0], digests[1], digests[1]};
  corelocker_options options = {
      sizeof(options), 0, &entry, 1, CORELOCKER_ANY_SIZE, take_sample, &samples, CORELOCKER_FULL_CHECK_OFF, nullptr};
  corelocker_file* handle = nullptr;
  corelocker_error error = corelocker_open_buffer(file.data(), file.size(), &options, &handle);
  require(error == verdict);
  require((handle != nullptr) == (error == CORELOCKER_OK));
  require(file == after);
  for (const uint8_t byte : consumed) require(byte == 0);
  corelocker_close(handle);

  // What fails after the patch was applied leaves the buffer as it was.
  file = before;
  consumed = patch;
  samples.taken = 0;
  digests[1][0] ^= 1;
  error = corelocker_open_buffer(file.data(), file.size(), &options, &handle);
  require(error == (verdict == CORELOCKER_OK ? CORELOCKER_RESTORE_RESTORED : verdict));
  require(file == before);
  // A huge file lets runs through that a small one refuses.
  corelocker_check_patch(patch.data(), patch.size(), UINT64_MAX);
  return 0;
}
