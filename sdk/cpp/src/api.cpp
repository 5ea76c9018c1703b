#include <cstdlib>
#include <cstring>
#include <new>

#include "corelocker/corelocker.h"
#include "mapping.h"
#include "patch.h"

using corelocker::Mapping;
using corelocker::Patch;

struct corelocker_file {
  Mapping mapping;
  uint64_t private_bytes;
};

namespace {

constexpr size_t kDigestSize = 32;
constexpr uint32_t kKnownFlags = CORELOCKER_UNCHECKED | CORELOCKER_COPY;

// The options of one open call. Wipes the caller's patches when the call returns.
class Request {
 public:
  explicit Request(const corelocker_options* options) {
    if (options == nullptr) return;
    if (options->struct_size < sizeof(corelocker_options)) {
      valid_ = false;
      return;
    }
    options_ = *options;
    valid_ = (options_.flags & ~kKnownFlags) == 0 && (options_.patches != nullptr || options_.patch_count == 0);
    if (options_.patches == nullptr) options_.patch_count = 0;
    for (size_t i = 0; i < options_.patch_count; i++) {
      const corelocker_patch& patch = options_.patches[i];
      const bool has_both = patch.replaced != nullptr && patch.restored != nullptr;
      const bool has_any = patch.replaced != nullptr || patch.restored != nullptr || patch.file != nullptr;
      valid_ &= patch.bytes != nullptr || patch.size == 0;
      valid_ &= has_both || (options_.flags & CORELOCKER_UNCHECKED) != 0;
      valid_ &= !has_any || options_.sha256 != nullptr;
    }
  }

  ~Request() {
    for (size_t i = 0; i < options_.patch_count; i++) {
      corelocker_wipe(options_.patches[i].bytes, options_.patches[i].size);
    }
  }

  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  bool valid() const { return valid_; }
  bool copy() const { return (options_.flags & CORELOCKER_COPY) != 0; }
  bool wants_size(size_t size) const { return options_.file_size == CORELOCKER_ANY_SIZE || options_.file_size == size; }
  size_t patch_count() const { return options_.patch_count; }
  const corelocker_patch& patch(size_t index) const { return options_.patches[index]; }

  corelocker_error sha256(const void* bytes, size_t size, uint8_t digest[kDigestSize]) const {
    return options_.sha256(options_.sha256_context, bytes, size, digest) == 0 ? CORELOCKER_OK : CORELOCKER_ARGUMENT;
  }

 private:
  corelocker_options options_ = {sizeof(corelocker_options), 0, nullptr, 0, CORELOCKER_ANY_SIZE, nullptr, nullptr};
  bool valid_ = true;
};

bool same_digest(const uint8_t* expected, const uint8_t* digest) {
  return expected == nullptr || std::memcmp(expected, digest, kDigestSize) == 0;
}

// The payload of a patch inside the caller's memory.
uint8_t* payload_of(const corelocker_patch& wanted, const Patch& patch) {
  return static_cast<uint8_t*>(wanted.bytes) + patch.payload_offset();
}

// Puts one checked patch in. The payload then holds the bytes that it replaced, which is all that checking and undoing
// need.
corelocker_error apply(const Request& request, const corelocker_patch& wanted, const Patch& patch,
                       const Mapping& file) {
  uint8_t* const payload = payload_of(wanted, patch);
  uint8_t restored[kDigestSize];
  uint8_t replaced[kDigestSize];
  corelocker_error error = CORELOCKER_OK;
  if (wanted.restored != nullptr) error = request.sha256(payload, patch.payload_size(), restored);
  if (error != CORELOCKER_OK) return error;

  patch.exchange(file.data, payload);
  if (wanted.replaced != nullptr) error = request.sha256(payload, patch.payload_size(), replaced);
  if (error == CORELOCKER_OK && !same_digest(wanted.replaced, replaced)) error = CORELOCKER_RESTORE_REPLACED;
  if (error == CORELOCKER_OK && !same_digest(wanted.restored, restored)) error = CORELOCKER_RESTORE_RESTORED;
  if (error == CORELOCKER_OK && wanted.file != nullptr) {
    error = request.sha256(file.data, file.size, restored);
    if (error == CORELOCKER_OK && !same_digest(wanted.file, restored)) error = CORELOCKER_RESTORE_RESTORED;
  }
  if (error != CORELOCKER_OK) patch.exchange(file.data, payload);
  return error;
}

// Whether the file, as it was opened, holds the bytes that a patch puts in.
bool holds_restored_bytes(const Request& request, const Patch* patches, const Mapping& file) {
  for (size_t i = 0; i < request.patch_count(); i++) {
    const corelocker_patch& wanted = request.patch(i);
    if (wanted.restored == nullptr || patches[i].payload_size() == 0) continue;
    uint8_t present[kDigestSize];
    uint8_t* const payload = payload_of(wanted, patches[i]);
    patches[i].exchange(file.data, payload);
    const corelocker_error error = request.sha256(payload, patches[i].payload_size(), present);
    patches[i].exchange(file.data, payload);
    if (error == CORELOCKER_OK && same_digest(wanted.restored, present)) return true;
  }
  return false;
}

corelocker_error parse_all(const Request& request, Patch* patches, const Mapping& file) {
  for (size_t i = 0; i < request.patch_count(); i++) {
    const corelocker_patch& wanted = request.patch(i);
    const auto* const bytes = static_cast<const uint8_t*>(wanted.bytes);
    const corelocker_error error = Patch::parse(bytes, wanted.size, file.size, &patches[i]);
    if (error != CORELOCKER_OK) return error;
  }
  return CORELOCKER_OK;
}

// Makes the pages that the patches touch private and counts them.
corelocker_error take_pages(const Request& request, const Patch* patches, const Mapping& file, size_t* taken) {
  const size_t page = corelocker::page_size();
  const size_t pages = file.base_size / page + (file.base_size % page != 0);
  *taken = file.copied ? pages : 0;
  if (file.copied || pages == 0 || request.patch_count() == 0) return CORELOCKER_OK;
  auto* const bits = static_cast<uint8_t*>(std::calloc(pages / 8 + 1, 1));
  if (bits == nullptr) return CORELOCKER_MEMORY;
  const auto lead = static_cast<size_t>(file.data - file.base);
  for (size_t i = 0; i < request.patch_count(); i++) patches[i].mark_pages(lead, page, bits);

  const auto touched = [bits](size_t index) { return (bits[index / 8] >> index % 8 & 1) != 0; };
  corelocker_error error = CORELOCKER_OK;
  for (size_t first = 0; first < pages && error == CORELOCKER_OK;) {
    if (first % 8 == 0 && bits[first / 8] == 0) {
      first += 8;
      continue;
    }
    size_t last = first;
    while (last < pages && touched(last)) last++;
    if (last > first) error = file.take_pages(first, last);
    *taken += last - first;
    first = last + 1;
  }
  std::free(bits);
  return error;
}

// Puts all patches in, or none.
corelocker_error apply_all(const Request& request, const Patch* patches, const Mapping& file) {
  for (size_t i = 0; i < request.patch_count(); i++) {
    const corelocker_error error = apply(request, request.patch(i), patches[i], file);
    if (error == CORELOCKER_OK) continue;
    while (i-- > 0) patches[i].exchange(file.data, payload_of(request.patch(i), patches[i]));
    const bool already = error == CORELOCKER_RESTORE_REPLACED && holds_restored_bytes(request, patches, file);
    return already ? CORELOCKER_RESTORE_ALREADY : error;
  }
  return CORELOCKER_OK;
}

// Restores a mapped file and hands it over, or unmaps it.
corelocker_error finish(const Request& request, Mapping mapping, corelocker_file** file) {
  auto* const patches = static_cast<Patch*>(std::calloc(request.patch_count() + 1, sizeof(Patch)));
  auto* const handle = static_cast<corelocker_file*>(std::malloc(sizeof(corelocker_file)));
  size_t pages = 0;
  corelocker_error error = CORELOCKER_OK;
  if (patches == nullptr || handle == nullptr) error = CORELOCKER_MEMORY;
  if (error == CORELOCKER_OK && !request.wants_size(mapping.size)) error = CORELOCKER_RESTORE_SIZE;
  if (error == CORELOCKER_OK) error = parse_all(request, patches, mapping);
  if (error == CORELOCKER_OK) error = take_pages(request, patches, mapping, &pages);
  if (error == CORELOCKER_OK) error = apply_all(request, patches, mapping);
  if (error == CORELOCKER_OK) error = mapping.make_read_only();
  if (error == CORELOCKER_OK) error = mapping.check();
  std::free(patches);
  if (error != CORELOCKER_OK) {
    mapping.close();
    std::free(handle);
    return error;
  }
  *file = new (handle) corelocker_file{mapping, uint64_t{pages} * corelocker::page_size()};
  return CORELOCKER_OK;
}

struct ErrorWords {
  corelocker_error error;
  const char* name;
  const char* text;
};

constexpr ErrorWords kErrors[] = {
    {CORELOCKER_OK, "ok", "no error"},
    {CORELOCKER_ARGUMENT, "argument", "the call is wrong: see its description in corelocker.h"},
    {CORELOCKER_MEMORY, "memory", "not enough memory or address space"},
    {CORELOCKER_FILE_ACCESS, "file-access", "the file cannot be opened, read or mapped"},
    {CORELOCKER_FILE_CHANGED, "file-changed", "the file was written to or shortened while it was open; open it again"},
    {CORELOCKER_PATCH_TRUNCATED, "patch-truncated", "the patch is shorter than its header, runs or payload say"},
    {CORELOCKER_PATCH_MAGIC, "patch-magic", "not a patch: it does not begin with CLPATCH1"},
    {CORELOCKER_PATCH_RESERVED, "patch-reserved", "the reserved field of the patch is not 0"},
    {CORELOCKER_PATCH_RUN, "patch-run",
     "a run of the patch has length 0, count 0 or a stride that its count does not allow"},
    {CORELOCKER_PATCH_ORDER, "patch-order", "the runs of the patch do not ascend by offset"},
    {CORELOCKER_PATCH_OVERFLOW, "patch-overflow", "a run of the patch leaves 64 bits"},
    {CORELOCKER_PATCH_BOUNDS, "patch-bounds", "a run of the patch reaches past the end of the file"},
    {CORELOCKER_PATCH_OVERLAP, "patch-overlap", "the patch writes a byte of the file twice"},
    {CORELOCKER_PATCH_PAYLOAD, "patch-payload", "the runs of the patch do not add up to its payload"},
    {CORELOCKER_PATCH_TRAILING, "patch-trailing", "bytes follow the payload of the patch"},
    {CORELOCKER_RESTORE_SIZE, "restore-size", "the file has another length than the key bundle says"},
    {CORELOCKER_RESTORE_ALREADY, "restore-already",
     "the file is restored already; a patch is applied once, to the locked file"},
    {CORELOCKER_RESTORE_REPLACED, "restore-replaced", "this is not the locked file that the key bundle was made for"},
    {CORELOCKER_RESTORE_RESTORED, "restore-restored", "the restored bytes are not those that the publisher signed"},
};

const ErrorWords* find(corelocker_error error) {
  for (const ErrorWords& words : kErrors) {
    if (words.error == error) return &words;
  }
  return nullptr;
}

}  // namespace

corelocker_error corelocker_open_path(const char* path, const corelocker_options* options, corelocker_file** file) {
  const Request request(options);
  if (file == nullptr) return CORELOCKER_ARGUMENT;
  *file = nullptr;
  if (path == nullptr || !request.valid()) return CORELOCKER_ARGUMENT;
  Mapping mapping;
  const corelocker_error error = Mapping::open_path(path, request.copy(), &mapping);
  return error == CORELOCKER_OK ? finish(request, mapping, file) : error;
}

corelocker_error corelocker_open_fd(int fd, uint64_t offset, uint64_t length, const corelocker_options* options,
                                    corelocker_file** file) {
  const Request request(options);
  if (file == nullptr) return CORELOCKER_ARGUMENT;
  *file = nullptr;
  if (!request.valid()) return CORELOCKER_ARGUMENT;
  Mapping mapping;
  const corelocker_error error = Mapping::open_fd(fd, offset, length, request.copy(), &mapping);
  return error == CORELOCKER_OK ? finish(request, mapping, file) : error;
}

corelocker_error corelocker_open_buffer(void* bytes, size_t size, const corelocker_options* options,
                                        corelocker_file** file) {
  const Request request(options);
  if (file == nullptr) return CORELOCKER_ARGUMENT;
  *file = nullptr;
  if ((bytes == nullptr && size > 0) || !request.valid()) return CORELOCKER_ARGUMENT;
  return finish(request, Mapping::of_buffer(bytes, size), file);
}

const void* corelocker_data(const corelocker_file* file) { return file->mapping.data; }

size_t corelocker_size(const corelocker_file* file) { return file->mapping.size; }

uint64_t corelocker_private_bytes(const corelocker_file* file) { return file->private_bytes; }

corelocker_error corelocker_check(const corelocker_file* file) { return file->mapping.check(); }

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

const char* corelocker_error_name(corelocker_error error) {
  const ErrorWords* const words = find(error);
  return words != nullptr ? words->name : "unknown";
}

const char* corelocker_error_text(corelocker_error error) {
  const ErrorWords* const words = find(error);
  return words != nullptr ? words->text : "an error that this version of the library does not know";
}

uint32_t corelocker_version() {
  return CORELOCKER_VERSION_MAJOR << 16 | CORELOCKER_VERSION_MINOR << 8 | CORELOCKER_VERSION_PATCH;
}
