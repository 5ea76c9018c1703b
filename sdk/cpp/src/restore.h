// Brings a file into memory, restored, in the order of docs/formats.md, "Key bundle".
#pragma once

#include "mapping.h"
#include "request.h"
#include "stamps.h"

namespace corelocker {

struct Restored {
  uint64_t private_bytes = 0;
  bool stamped = false;  // the file has passed the full check, now or before
  Stamp stamp = {};
};

// Gives the opened `file` its memory and applies the patches: all or none. After an error `file` has to be closed; a
// buffer holds what it held before.
corelocker_error restore(Request& request, Mapping* file, Restored* restored);

}  // namespace corelocker
