// Which pages of a mapped file become the handle's own, and the cheapest way to them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "corelocker/corelocker.h"
#include "mapping.h"
#include "patch.h"

namespace corelocker {

// A page that a patch touches is copied by the kernel. A region of which patches touch much is read as a whole instead,
// into a huge page where the system has them: it saves the kernel's bookkeeping for each page. Plain data: zero is
// empty.
class PrivatePages {
 public:
  // For a file that is opened and not in memory yet. CORELOCKER_MEMORY.
  corelocker_error prepare(Mapping* file);
  void mark(const Patch& patch) { patch.mark_pages(file_->lead, file_->page, bits_); }
  // After all patches are marked: settles the ways, and maps the file.
  corelocker_error map();

  // Makes those pages private that lie before byte `end` of the file; calls go on where the last one ended.
  corelocker_error take(uint64_t end);
  size_t bytes() const { return count() * file_->page; }
  void free();

 private:
  bool is_own(size_t page) const { return (bits_[page / 8] >> page % 8 & 1) != 0; }
  bool is_read(size_t region) const { return region < region_count_ && regions_[region] != 0; }
  size_t count_in_region(size_t region) const;
  size_t count() const;

  Mapping* file_;
  uint8_t* bits_;        // one for each page that becomes private
  size_t page_count_;    // of the file
  uint8_t* regions_;     // one byte for each region: 1 when it is read
  size_t region_count_;  // whole ones: the last pages of a file are in none
  size_t region_pages_;
  size_t next_;  // all pages before this one are done
};

}  // namespace corelocker
