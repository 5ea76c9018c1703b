// 64-bit file offsets also where a pointer has 32 bits.
#define _FILE_OFFSET_BITS 64  // NOLINT(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace corelocker {
namespace {

// The pages are few and never shared, so they need no swap space set aside for the whole file.
#ifdef MAP_NORESERVE
constexpr int kPrivate = MAP_PRIVATE | MAP_NORESERVE;
#else
constexpr int kPrivate = MAP_PRIVATE;
#endif

#ifdef __linux__
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14; missing from older headers
#endif
#endif

FileIdentity identity_of(const struct stat& status) {
#ifdef __APPLE__
  const timespec& modified = status.st_mtimespec;
#else
  const timespec& modified = status.st_mtim;
#endif
  FileIdentity identity;
  identity.device = static_cast<uint64_t>(status.st_dev);
  identity.inode = static_cast<uint64_t>(status.st_ino);
  identity.file_size = static_cast<uint64_t>(status.st_size);
  // Wraps after the year 2262; it is only compared.
  identity.modified_ns =
      static_cast<uint64_t>(modified.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(modified.tv_nsec);
  return identity;
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

// Restored bytes shall not reach storage inside a core dump. Where this fails, dumps are the platform's business.
void keep_out_of_dumps(uint8_t* base, size_t size) {
#ifdef MADV_DONTDUMP
  (void)madvise(base, size, MADV_DONTDUMP);
#else
  (void)base;
  (void)size;
#endif
}

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

bool can_take_pages() {
#ifdef __linux__
  return madvise(nullptr, 0, MADV_POPULATE_WRITE) == 0;
#else
  return false;
#endif
}

corelocker_error Mapping::open_path(const char* path, Mapping* mapping) {
  // Without O_NONBLOCK the path of a pipe would wait for a writer. For a regular file it changes nothing.
  int fd;
  do {
    fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return CORELOCKER_FILE_ACCESS;
  const corelocker_error error = open_fd(fd, 0, CORELOCKER_TO_END, mapping);
  const int reason = errno;
  ::close(fd);
  errno = reason;
  return error;
}

corelocker_error Mapping::open_fd(int fd, uint64_t offset, uint64_t length, Mapping* mapping) {
  struct stat status;
  if (stat_file(fd, &status) != CORELOCKER_OK) return CORELOCKER_FILE_ACCESS;
  if (!S_ISREG(status.st_mode)) {
    errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    return CORELOCKER_FILE_ACCESS;
  }
  Mapping opened;
  opened.identity = identity_of(status);
  const uint64_t file_size = opened.identity.file_size;
  if (offset > file_size) return CORELOCKER_RESTORE_SIZE;
  if (length == CORELOCKER_TO_END) length = file_size - offset;
  if (length > file_size - offset) return CORELOCKER_RESTORE_SIZE;
  if (length > SIZE_MAX - 2 * kRegion) return CORELOCKER_MEMORY;
  opened.identity.offset = offset;
  opened.identity.length = length;
  opened.size = static_cast<size_t>(length);
  opened.page = page_size();
  opened.lead = static_cast<size_t>(offset % opened.page);
  opened.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (opened.fd < 0) return CORELOCKER_FILE_ACCESS;
  *mapping = opened;
  return CORELOCKER_OK;
}

Mapping Mapping::of_buffer(void* bytes, size_t size) {
  Mapping mapping;
  mapping.data = static_cast<uint8_t*>(bytes);
  mapping.size = size;
  return mapping;
}

corelocker_error Mapping::take_memory(size_t wanted) {
  wanted = (wanted + page - 1) / page * page;
  const size_t slack = wanted < kRegion ? 0 : kRegion;
  void* const start = mmap(nullptr, wanted + slack, PROT_READ | PROT_WRITE, kPrivate | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return map_error();
  auto* const memory = static_cast<uint8_t*>(start);
  const size_t skipped = slack == 0 ? 0 : (kRegion - reinterpret_cast<uintptr_t>(memory) % kRegion) % kRegion;
  if (skipped > 0) munmap(memory, skipped);
  if (slack > skipped) munmap(memory + skipped + wanted, slack - skipped);
  base = memory + skipped;
  base_size = wanted;
#ifdef MADV_HUGEPAGE
  if (slack > 0) (void)madvise(base, base_size, MADV_HUGEPAGE);
#endif
  return CORELOCKER_OK;
}

corelocker_error Mapping::map(const uint8_t* regions, size_t region_count) {
  if (size == 0) return CORELOCKER_OK;
  const corelocker_error error = take_memory(size + lead);
  if (error != CORELOCKER_OK) return error;
  data = base + lead;
  const size_t whole = region_count * kRegion;
  const auto is_empty = [&](size_t start) { return start < whole && regions[start / kRegion] != 0; };
  for (size_t start = 0, end = 0; start < size + lead; start = end) {
    do {
      end = end < whole ? end + kRegion : size + lead;
    } while (end < size + lead && is_empty(end) == is_empty(start));
    if (is_empty(start)) continue;
    void* const mapped = mmap(base + start, end - start, PROT_READ | PROT_WRITE, kPrivate | MAP_FIXED, fd,
                              static_cast<off_t>(identity.offset - lead + start));
    if (mapped == MAP_FAILED) return map_error();
  }
  keep_out_of_dumps(base, base_size);
  return CORELOCKER_OK;
}

corelocker_error Mapping::allocate() {
  copied = true;
  if (size == 0) return CORELOCKER_OK;
  const corelocker_error error = take_memory(size);
  if (error != CORELOCKER_OK) return error;
  data = base;
  keep_out_of_dumps(base, base_size);
  return CORELOCKER_OK;
}

corelocker_error Mapping::read(uint64_t from, uint64_t to) const {
  return read_all(fd, identity.offset + from, data + from, static_cast<size_t>(to - from));
}

corelocker_error Mapping::read_pages(size_t first, size_t last) const {
  const size_t from = std::max(first * page, lead) - lead;
  return read(from, std::min(last * page - lead, size));
}

corelocker_error Mapping::take_pages(size_t first, size_t last) const {
#ifdef __linux__
  if (madvise(base + first * page, (last - first) * page, MADV_POPULATE_WRITE) == 0) return CORELOCKER_OK;
  if (errno == EFAULT) return CORELOCKER_FILE_CHANGED;
  if (errno == ENOMEM) return CORELOCKER_MEMORY;
#else
  (void)first;
  (void)last;
#endif
  return CORELOCKER_OK;
}

bool Mapping::owns(uint64_t position, size_t length) const {
  if (copied || !of_file()) return true;
  if (own == nullptr || length == 0) return false;
  const size_t start = lead + static_cast<size_t>(position);
  const size_t last = (start + length - 1) / page;
  for (size_t i = start / page; i <= last; i++) {
    if ((own[i / 8] >> i % 8 & 1) == 0) return false;
  }
  return true;
}

corelocker_error Mapping::copy_out(uint64_t position, size_t length, uint8_t* target) const {
  if (!owns(position, length)) return read_all(fd, identity.offset + position, target, length);
  std::memcpy(target, data + position, length);
  return CORELOCKER_OK;
}

void Mapping::copy_own(uint64_t position, size_t length, uint8_t* target) const {
  if (own == nullptr) {
    if (owns(position, length)) std::memcpy(target, data + position, length);
    return;
  }
  while (length > 0) {
    const size_t to_page_end = page - (lead + static_cast<size_t>(position)) % page;
    const size_t part = std::min(length, to_page_end);
    if (owns(position, part)) std::memcpy(target, data + position, part);
    position += part;
    target += part;
    length -= part;
  }
}

corelocker_error Mapping::make_read_only() const {
  if (base == nullptr || mprotect(base, base_size, PROT_READ) == 0) return CORELOCKER_OK;
  return map_error();
}

corelocker_error Mapping::check() const {
  if (!of_file()) return CORELOCKER_OK;
  struct stat status;
  if (stat_file(fd, &status) != CORELOCKER_OK) return CORELOCKER_FILE_ACCESS;
  const FileIdentity now = identity_of(status);
  const bool same = now.file_size == identity.file_size && now.modified_ns == identity.modified_ns;
  return same ? CORELOCKER_OK : CORELOCKER_FILE_CHANGED;
}

void Mapping::forget_file() {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

void Mapping::close() {
  const int reason = errno;
  if (base != nullptr) munmap(base, base_size);
  forget_file();
  *this = Mapping{};
  errno = reason;
}

}  // namespace corelocker
