// libFuzzer target: the patch parser and the apply path on hostile patches.
//
// Input: u16 length of the file (little-endian), then the patch. The file is
// made up; a patch that is accepted must change exactly the bytes that its runs
// name, and one that is refused must change nothing.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "corelocker/corelocker.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

uint64_t read(const uint8_t* bytes, int size) {
  uint64_t value = 0;
  for (int i = size; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

// The format once more, as plainly as possible: what the file must be after an
// accepted patch.
std::vector<uint8_t> expected_file(std::vector<uint8_t> file, const std::vector<uint8_t>& patch) {
  const size_t run_count = read(&patch[8], 4);
  const uint8_t* payload = patch.data() + 24 + 20 * run_count;
  std::vector<bool> written(file.size());
  for (size_t i = 0; i < run_count; i++) {
    const uint8_t* const run = &patch[24 + 20 * i];
    const uint64_t length = read(run + 8, 4);
    for (uint64_t piece = 0; piece < read(run + 16, 4); piece++) {
      for (uint64_t j = 0; j < length; j++) {
        const uint64_t position = read(run, 8) + piece * read(run + 12, 4) + j;
        require(position < file.size() && !written[position]);
        written[position] = true;
        file[position] = *payload++;
      }
    }
  }
  require(payload == patch.data() + patch.size());
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::vector<uint8_t> file(read(data, 2));
  for (size_t i = 0; i < file.size(); i++) file[i] = static_cast<uint8_t>(i * 7);
  const std::vector<uint8_t> before = file;
  const std::vector<uint8_t> patch(data + 2, data + size);

  std::vector<uint8_t> consumed = patch;
  corelocker_patch entry = {consumed.data(), consumed.size(), nullptr, nullptr, nullptr};
  const corelocker_options options = {sizeof(options), CORELOCKER_UNCHECKED, &entry, 1, CORELOCKER_ANY_SIZE, nullptr,
                                      nullptr};
  corelocker_file* handle = nullptr;
  const corelocker_error error = corelocker_open_buffer(file.data(), file.size(), &options, &handle);
  require(error == corelocker_check_patch(patch.data(), patch.size(), file.size()));
  require((handle != nullptr) == (error == CORELOCKER_OK));
  require(file == (error == CORELOCKER_OK ? expected_file(before, patch) : before));
  for (const uint8_t byte : consumed) require(byte == 0);
  corelocker_close(handle);
  // A huge file lets runs through that a small one refuses.
  corelocker_check_patch(patch.data(), patch.size(), UINT64_MAX);
  return 0;
}
