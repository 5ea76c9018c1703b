#include "stamps.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>

#include "bytes.h"

namespace corelocker {
namespace {

// POSIX's own mutex, because std::mutex needs the C++ library at run time.
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
Stamp remembered[CORELOCKER_STAMP_CAPACITY];  // the latest first
size_t remembered_count = 0;

Stamp* find(const Stamp& stamp) {
  return std::find_if(remembered, remembered + remembered_count, [&](const Stamp& other) {
    return std::memcmp(other.bytes, stamp.bytes, sizeof(stamp.bytes)) == 0;
  });
}

}  // namespace

Stamp make_stamp(const FileIdentity& identity, const uint8_t* sha256) {
  const uint64_t fields[] = {identity.device,      identity.inode,  identity.file_size,
                             identity.modified_ns, identity.offset, identity.length};
  Stamp stamp;
  static_assert(sizeof(stamp.bytes) == sizeof(fields) + 32);
  uint8_t* p = stamp.bytes;
  for (const uint64_t field : fields) {
    write_u64(p, field);
    p += sizeof(field);
  }
  std::memcpy(p, sha256, 32);
  return stamp;
}

void remember_stamp(const Stamp& stamp) {
  pthread_mutex_lock(&mutex);
  Stamp* place = find(stamp);
  if (place == remembered + remembered_count) {
    if (remembered_count < CORELOCKER_STAMP_CAPACITY) remembered_count++;
    place = remembered + remembered_count - 1;
  }
  std::move_backward(remembered, place, place + 1);
  remembered[0] = stamp;
  pthread_mutex_unlock(&mutex);
}

bool is_remembered(const Stamp& stamp) {
  pthread_mutex_lock(&mutex);
  const bool found = find(stamp) != remembered + remembered_count;
  pthread_mutex_unlock(&mutex);
  return found;
}

}  // namespace corelocker
