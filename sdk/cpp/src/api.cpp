#include <cstdlib>
#include <cstring>
#include <new>

#include "corelocker/corelocker.h"
#include "mapping.h"
#include "patch.h"
#include "request.h"
#include "restore.h"
#include "stamps.h"

using corelocker::Mapping;
using corelocker::Patch;
using corelocker::Request;
using corelocker::Restored;
using corelocker::Stamp;

struct corelocker_file {
  Mapping mapping;
  Restored restored;
};

namespace {

// Restores an opened file and hands it over, or closes it.
corelocker_error finish(Request& request, Mapping mapping, corelocker_file** file) {
  auto* const handle = static_cast<corelocker_file*>(std::malloc(sizeof(corelocker_file)));
  Restored restored;
  corelocker_error error = handle != nullptr ? CORELOCKER_OK : CORELOCKER_MEMORY;
  if (error == CORELOCKER_OK) error = corelocker::restore(request, &mapping, &restored);
  if (error != CORELOCKER_OK) {
    mapping.close();
    std::free(handle);
    return error;
  }
  *file = new (handle) corelocker_file{mapping, restored};
  return CORELOCKER_OK;
}

}  // namespace

corelocker_error corelocker_open_path(const char* path, const corelocker_options* options, corelocker_file** file) {
  Request request(options);
  if (file == nullptr) return CORELOCKER_ARGUMENT;
  *file = nullptr;
  if (path == nullptr || !request.valid()) return CORELOCKER_ARGUMENT;
  Mapping mapping;
  const corelocker_error error = Mapping::open_path(path, &mapping);
  return error == CORELOCKER_OK ? finish(request, mapping, file) : error;
}

corelocker_error corelocker_open_fd(int fd, uint64_t offset, uint64_t length, const corelocker_options* options,
                                    corelocker_file** file) {
  Request request(options);
  if (file == nullptr) return CORELOCKER_ARGUMENT;
  *file = nullptr;
  if (!request.valid()) return CORELOCKER_ARGUMENT;
  Mapping mapping;
  const corelocker_error error = Mapping::open_fd(fd, offset, length, &mapping);
  return error == CORELOCKER_OK ? finish(request, mapping, file) : error;
}

corelocker_error corelocker_open_buffer(void* bytes, size_t size, const corelocker_options* options,
                                        corelocker_file** file) {
  Request request(options);
  if (file == nullptr) return CORELOCKER_ARGUMENT;
  *file = nullptr;
  if ((bytes == nullptr && size > 0) || !request.valid()) return CORELOCKER_ARGUMENT;
  return finish(request, Mapping::of_buffer(bytes, size), file);
}

const void* corelocker_data(const corelocker_file* file) { return file->mapping.data; }

size_t corelocker_size(const corelocker_file* file) { return file->mapping.size; }

uint64_t corelocker_private_bytes(const corelocker_file* file) { return file->restored.private_bytes; }

corelocker_error corelocker_check(const corelocker_file* file) { return file->mapping.check(); }

int corelocker_get_stamp(const corelocker_file* file, uint8_t stamp[CORELOCKER_STAMP_SIZE]) {
  if (!file->restored.stamped) return 0;
  std::memcpy(stamp, file->restored.stamp.bytes, CORELOCKER_STAMP_SIZE);
  return 1;
}

corelocker_error corelocker_remember_stamp(const uint8_t* stamp, size_t size) {
  if (stamp == nullptr || size != CORELOCKER_STAMP_SIZE) return CORELOCKER_ARGUMENT;
  Stamp known;
  std::memcpy(known.bytes, stamp, size);
  corelocker::remember_stamp(known);
  return CORELOCKER_OK;
}

void corelocker_close(corelocker_file* file) {
  if (file == nullptr) return;
  file->mapping.close();
  std::free(file);
}

corelocker_error corelocker_check_patch(const void* bytes, size_t size, uint64_t file_size) {
  if (bytes == nullptr && size > 0) return CORELOCKER_ARGUMENT;
  Patch patch;
  return Patch::parse(static_cast<const uint8_t*>(bytes), size, file_size, &patch);
}

void corelocker_wipe(void* bytes, size_t size) {
  if (size == 0 || bytes == nullptr) return;
  std::memset(bytes, 0, size);
  // The compiler must assume that this reads the memory, so it cannot drop the memset.
  __asm__ __volatile__("" : : "r"(bytes) : "memory");
}

uint32_t corelocker_version() {
  return CORELOCKER_VERSION_MAJOR << 16 | CORELOCKER_VERSION_MINOR << 8 | CORELOCKER_VERSION_PATCH;
}
