// 64-bit file offsets also where a pointer has 32 bits.
#define _FILE_OFFSET_BITS 64  // NOLINT(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace corelocker {
namespace {

// The pages are few and never shared, so they need no swap space set aside for the whole file.
#ifdef MAP_NORESERVE
constexpr int kPrivate = MAP_PRIVATE | MAP_NORESERVE;
#else
constexpr int kPrivate = MAP_PRIVATE;
#endif

void set_modified(const struct stat& status, Mapping* mapping) {
#ifdef __APPLE__
  const timespec& modified = status.st_mtimespec;
#else
  const timespec& modified = status.st_mtim;
#endif
  mapping->modified_seconds = modified.tv_sec;
  mapping->modified_nanoseconds = modified.tv_nsec;
}

corelocker_error stat_file(int fd, struct stat* status) {
  int result;
  do {
    result = fstat(fd, status);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? CORELOCKER_OK : CORELOCKER_FILE_ACCESS;
}

corelocker_error read_all(int fd, uint64_t offset, uint8_t* bytes, size_t size) {
  while (size > 0) {
    // Systems limit a read to 2 GiB; some refuse a larger one.
    const ssize_t got = pread(fd, bytes, std::min<size_t>(size, size_t{1} << 30), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return CORELOCKER_FILE_ACCESS;
    if (got == 0) return CORELOCKER_FILE_CHANGED;
    bytes += got;
    size -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
  return CORELOCKER_OK;
}

corelocker_error map_error() {
  return errno == ENOMEM || errno == EOVERFLOW ? CORELOCKER_MEMORY : CORELOCKER_FILE_ACCESS;
}

}  // namespace

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

corelocker_error Mapping::open_path(const char* path, bool copy, Mapping* mapping) {
  // Without O_NONBLOCK the path of a pipe would wait for a writer. For a regular file it changes nothing.
  int fd;
  do {
    fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return CORELOCKER_FILE_ACCESS;
  const corelocker_error error = open_fd(fd, 0, CORELOCKER_TO_END, copy, mapping);
  const int reason = errno;
  ::close(fd);
  errno = reason;
  return error;
}

corelocker_error Mapping::open_fd(int fd, uint64_t offset, uint64_t length, bool copy, Mapping* mapping) {
  struct stat status;
  if (stat_file(fd, &status) != CORELOCKER_OK) return CORELOCKER_FILE_ACCESS;
  if (!S_ISREG(status.st_mode)) {
    errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    return CORELOCKER_FILE_ACCESS;
  }
  Mapping opened;
  opened.file_size = static_cast<uint64_t>(status.st_size);
  set_modified(status, &opened);
  if (offset > opened.file_size) return CORELOCKER_RESTORE_SIZE;
  if (length == CORELOCKER_TO_END) length = opened.file_size - offset;
  if (length > opened.file_size - offset) return CORELOCKER_RESTORE_SIZE;
  const size_t lead = static_cast<size_t>(offset % page_size());
  if (length > SIZE_MAX - lead) return CORELOCKER_MEMORY;
  opened.size = static_cast<size_t>(length);
  if (length == 0) {
    *mapping = opened;
    return CORELOCKER_OK;
  }

  opened.copied = copy || lead % CORELOCKER_ALIGNMENT != 0;
  opened.base_size = opened.copied ? opened.size : opened.size + lead;
  void* const base =
      opened.copied
          ? mmap(nullptr, opened.base_size, PROT_READ | PROT_WRITE, kPrivate | MAP_ANONYMOUS, -1, 0)
          : mmap(nullptr, opened.base_size, PROT_READ | PROT_WRITE, kPrivate, fd, static_cast<off_t>(offset - lead));
  if (base == MAP_FAILED) return map_error();
  opened.base = static_cast<uint8_t*>(base);
  opened.data = opened.copied ? opened.base : opened.base + lead;
#ifdef MADV_DONTDUMP
  // Restored bytes shall not reach storage inside a core dump. Where this fails, dumps are the platform's business.
  (void)madvise(base, opened.base_size, MADV_DONTDUMP);
#endif
  corelocker_error error = CORELOCKER_OK;
  if (opened.copied) {
    error = read_all(fd, offset, opened.data, opened.size);
  } else {
    opened.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (opened.fd < 0) error = CORELOCKER_FILE_ACCESS;
  }
  if (error != CORELOCKER_OK) {
    opened.close();
    return error;
  }
  *mapping = opened;
  return CORELOCKER_OK;
}

Mapping Mapping::of_buffer(void* bytes, size_t size) {
  Mapping mapping;
  mapping.data = static_cast<uint8_t*>(bytes);
  mapping.size = size;
  return mapping;
}

corelocker_error Mapping::take_pages(size_t first, size_t last) const {
#ifdef __linux__
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;  // Linux 5.14; missing from older headers
#endif
  const size_t page = page_size();
  if (madvise(base + first * page, (last - first) * page, MADV_POPULATE_WRITE) == 0) return CORELOCKER_OK;
  if (errno == EFAULT) return CORELOCKER_FILE_CHANGED;
  if (errno == ENOMEM) return CORELOCKER_MEMORY;
#else
  (void)first;
  (void)last;
#endif
  return CORELOCKER_OK;
}

corelocker_error Mapping::make_read_only() const {
  if (base == nullptr || mprotect(base, base_size, PROT_READ) == 0) return CORELOCKER_OK;
  return map_error();
}

corelocker_error Mapping::check() const {
  if (fd < 0) return CORELOCKER_OK;
  struct stat status;
  if (stat_file(fd, &status) != CORELOCKER_OK) return CORELOCKER_FILE_ACCESS;
  Mapping now;
  set_modified(status, &now);
  const bool same = static_cast<uint64_t>(status.st_size) == file_size && now.modified_seconds == modified_seconds &&
                    now.modified_nanoseconds == modified_nanoseconds;
  return same ? CORELOCKER_OK : CORELOCKER_FILE_CHANGED;
}

void Mapping::close() {
  const int reason = errno;
  if (base != nullptr) munmap(base, base_size);
  if (fd >= 0) ::close(fd);
  *this = Mapping{};
  errno = reason;
}

}  // namespace corelocker
