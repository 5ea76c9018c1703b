// The bytes of a model file in private memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"

namespace corelocker {

// Owns the memory and a descriptor of the file behind it. Freed by `close`, not by a destructor, since it is a plain
// member of the C handle.
struct Mapping {
  uint8_t* base = nullptr;  // start of the mapped pages; nullptr for the caller's buffer and for an empty file
  size_t base_size = 0;
  uint8_t* data = nullptr;  // the file's first byte, inside of the pages
  size_t size = 0;
  bool copied = false;
  int fd = -1;  // the file behind mapped pages, -1 when there is none to watch
  uint64_t file_size = 0;
  int64_t modified_seconds = 0;
  int64_t modified_nanoseconds = 0;

  static corelocker_error open_path(const char* path, bool copy, Mapping* mapping);
  static corelocker_error open_fd(int fd, uint64_t offset, uint64_t length, bool copy, Mapping* mapping);
  static Mapping of_buffer(void* bytes, size_t size);

  // Gives the pages [first, last) of the mapping memory of their own now, which costs less than one fault a page, and
  // turns a file that has been shortened meanwhile into an error. Does nothing where the system cannot.
  corelocker_error take_pages(size_t first, size_t last) const;
  corelocker_error make_read_only() const;
  corelocker_error check() const;
  void close();
};

size_t page_size();

}  // namespace corelocker
