#include "corelocker/corelocker.h"

namespace {

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
    {CORELOCKER_PATCH_MAGIC, "patch-magic", "not a patch: it does not begin with CLPATCH"},
    {CORELOCKER_PATCH_RESERVED, "patch-reserved", "the reserved field of the patch is not 0"},
    {CORELOCKER_PATCH_RUN, "patch-run",
     "a run of the patch has length 0, count 0 or a stride that its count does not allow"},
    {CORELOCKER_PATCH_ORDER, "patch-order", "the runs of the patch do not ascend by offset"},
    {CORELOCKER_PATCH_OVERFLOW, "patch-overflow", "a run of the patch leaves 64 bits"},
    {CORELOCKER_PATCH_BOUNDS, "patch-bounds", "a run of the patch reaches past the end of the file"},
    {CORELOCKER_PATCH_OVERLAP, "patch-overlap", "the patch writes a byte of the file twice"},
    {CORELOCKER_PATCH_PAYLOAD, "patch-payload", "the runs of the patch do not add up to its payload"},
    {CORELOCKER_PATCH_TRAILING, "patch-trailing", "bytes follow the payload of the patch"},
    {CORELOCKER_PATCH_VERSION, "patch-version", "the patch is of another version; lock the model again"},
    {CORELOCKER_PATCH_KIND, "patch-kind",
     "a run of the patch has an unknown kind, or a width, constant or length that its kind does not allow"},
    {CORELOCKER_PATCH_TABLE, "patch-table", "a table of the patch is not its own inverse"},
    {CORELOCKER_PATCH_PADDING, "patch-padding", "a mask of the patch has a bit behind its last element"},
    {CORELOCKER_RESTORE_SIZE, "restore-size", "the file has another length than the key bundle says"},
    {CORELOCKER_RESTORE_ALREADY, "restore-already",
     "the file is restored already; a patch is applied once, to the locked file"},
    {CORELOCKER_RESTORE_REPLACED, "restore-replaced", "this is not the locked file that the key bundle was made for"},
    {CORELOCKER_RESTORE_RESTORED, "restore-restored", "the restored file is not the one that the publisher signed"},
};

const ErrorWords* find(corelocker_error error) {
  for (const ErrorWords& words : kErrors) {
    if (words.error == error) return &words;
  }
  return nullptr;
}

}  // namespace

const char* corelocker_error_name(corelocker_error error) {
  const ErrorWords* const words = find(error);
  return words != nullptr ? words->name : "unknown";
}

const char* corelocker_error_text(corelocker_error error) {
  const ErrorWords* const words = find(error);
  return words != nullptr ? words->text : "an error that this version of the library does not know";
}
