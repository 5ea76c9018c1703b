#include "private_pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace corelocker {
namespace {

#ifdef __linux__
bool file_holds(const char* path, const char* text) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char start[64] = {};
  const ssize_t got = ::read(fd, start, sizeof(start) - 1);
  ::close(fd);
  return got > 0 && std::strstr(start, text) != nullptr;
}

// Whether a region of memory that asks for a huge page gets one. A system that does not say so counts as one that has
// none.
bool has_huge_pages() {
  static_assert(kRegion == 2'097'152, "the size that is looked for");
  const char* const enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
  return prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 &&
         file_holds("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n") &&
         (file_holds(enabled, "[madvise]") || file_holds(enabled, "[always]"));
}
#else
bool has_huge_pages() { return false; }
#endif

// From how many touched pages on reading a region is the better way. By tools/bench/restore a page that is copied when
// it is written costs 1.7 to 2.2 us, a page that is read 0.4 to 1.3 us within a huge page, as fast as the memory is,
// and 1.5 to 2 us elsewhere. With huge pages a quarter to two thirds would do for the time; what is read is no longer
// shared with the page cache, so memory has a say. Without `take_pages` each page costs a fault.
size_t least_to_read(size_t pages) {
  if (has_huge_pages()) return pages / 2;
  return can_take_pages() ? pages / 8 * 7 : pages / 2;
}

}  // namespace

corelocker_error PrivatePages::prepare(Mapping* file) {
  file_ = file;
  const size_t bytes = file->lead + file->size;
  page_count_ = (bytes + file->page - 1) / file->page;
  region_count_ = bytes / kRegion;
  region_pages_ = kRegion / file->page;
  bits_ = static_cast<uint8_t*>(std::calloc(page_count_ / 8 + 1, 1));
  regions_ = static_cast<uint8_t*>(std::calloc(region_count_ + 1, 1));
  return bits_ != nullptr && regions_ != nullptr ? CORELOCKER_OK : CORELOCKER_MEMORY;
}

corelocker_error PrivatePages::map() {
  const size_t pages = region_pages_;
  size_t least = 0;
  for (size_t i = 0; i < region_count_; i++) {
    const size_t touched = count_in_region(i);
    if (touched < pages / 4) continue;  // most files are touched nowhere as much, and the system need not be asked
    if (least == 0) least = least_to_read(pages);
    if (touched < least) continue;
    regions_[i] = 1;
    std::memset(bits_ + i * pages / 8, 0xFF, pages / 8);
  }
  const corelocker_error error = file_->map(regions_, region_count_);
  file_->own = bits_;
  return error;
}

corelocker_error PrivatePages::take(uint64_t end) {
  const size_t stop = (file_->lead + static_cast<size_t>(end) + file_->page - 1) / file_->page;
  while (next_ < stop) {
    if (next_ % 8 == 0 && bits_[next_ / 8] == 0) {
      next_ = std::min(next_ + 8, stop);
      continue;
    }
    const size_t first = next_;
    const size_t region = first / region_pages_;
    const size_t border = std::min((region + 1) * region_pages_, stop);
    corelocker_error error = CORELOCKER_OK;
    if (is_read(region)) {
      next_ = border;
      error = file_->read_pages(first, next_);
    } else if (is_own(first)) {
      while (next_ < border && is_own(next_)) next_++;
      error = file_->take_pages(first, next_);
    } else {
      next_++;
    }
    if (error != CORELOCKER_OK) return error;
  }
  return CORELOCKER_OK;
}

size_t PrivatePages::count_in_region(size_t region) const {
  const size_t bytes = region_pages_ / 8;
  const uint8_t* const bits = bits_ + region * bytes;
  size_t set = 0;
  for (size_t i = 0; i < bytes; i++) set += static_cast<size_t>(__builtin_popcount(bits[i]));
  return set;
}

size_t PrivatePages::count() const {
  size_t set = 0;
  for (size_t i = 0; i < page_count_ / 8 + 1; i++) set += static_cast<size_t>(__builtin_popcount(bits_[i]));
  return set;
}

void PrivatePages::free() {
  // The places of what is locked are secret.
  if (file_ != nullptr) file_->own = nullptr;
  if (bits_ != nullptr) corelocker_wipe(bits_, page_count_ / 8 + 1);
  std::free(bits_);
  std::free(regions_);
}

}  // namespace corelocker
