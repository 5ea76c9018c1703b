// The bytes of a model file in private memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"

namespace corelocker {

// Memory is taken from the system, page by page or as much as this at once: a huge page of most systems.
constexpr size_t kRegion = size_t{2} << 20;

// A part of a file, as long as nobody writes to it.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t file_size = 0;
  uint64_t modified_ns = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Owns the memory and a descriptor of the file behind it. Freed by `close`, not by a destructor, since it is a plain
// member of the C handle. It is opened first, and gets its memory by `map` or `allocate`.
struct Mapping {
  uint8_t* base = nullptr;  // start of the mapped pages; nullptr for the caller's buffer and for an empty file
  size_t base_size = 0;
  uint8_t* data = nullptr;  // the file's first byte, inside of the pages
  size_t size = 0;
  bool copied = false;           // all pages are the handle's own, and `read` fills them
  const uint8_t* own = nullptr;  // of a mapped file: one bit for each page that is the handle's own; while it is opened
  size_t page = 1;               // bytes
  size_t lead = 0;               // bytes of the file's first page before the part that was opened
  int fd = -1;                   // the file, -1 for a buffer and when there is nothing to watch any more
  FileIdentity identity;

  static corelocker_error open_path(const char* path, Mapping* mapping);
  static corelocker_error open_fd(int fd, uint64_t offset, uint64_t length, Mapping* mapping);
  static Mapping of_buffer(void* bytes, size_t size);

  bool of_file() const { return fd >= 0; }
  // Whether mapped bytes would lie as runtimes rely on.
  bool aligned() const { return lead % CORELOCKER_ALIGNMENT == 0; }

  // Maps the file: a page is read when it is touched, and takes memory of its own when it is written. The first
  // `region_count` regions that are not 0 become empty memory instead, which `read_pages` fills.
  corelocker_error map(const uint8_t* regions, size_t region_count);
  // Takes empty memory for all of the file.
  corelocker_error allocate();
  // Fills [from, to) after `allocate`.
  corelocker_error read(uint64_t from, uint64_t to) const;

  // Fills the pages [first, last) of regions that are empty memory.
  corelocker_error read_pages(size_t first, size_t last) const;

  // Gives the pages [first, last) of the mapping memory of their own now, which costs less than one fault a page, and
  // turns a file that has been shortened meanwhile into an error. Does nothing where the system cannot.
  corelocker_error take_pages(size_t first, size_t last) const;
  // Whether these bytes are in memory of the handle's own, so that nobody else can change or cut them off.
  bool owns(uint64_t position, size_t length) const;
  // Copies bytes of the file, from memory only where it `owns` them: a file that is cut off is an error and no signal.
  corelocker_error copy_out(uint64_t position, size_t length, uint8_t* target) const;
  // Copies those of the bytes that it `owns`, and leaves the others of `target`.
  void copy_own(uint64_t position, size_t length, uint8_t* target) const;

  corelocker_error make_read_only() const;
  corelocker_error check() const;
  // Goes on without the file, whose bytes are all copied.
  void forget_file();
  void close();

 private:
  // Takes `wanted` bytes of empty memory at the border of a region, in huge pages where the system has them.
  corelocker_error take_memory(size_t wanted);
};

// Whether `take_pages` works here.
bool can_take_pages();

}  // namespace corelocker
