// Whether a patch writes a byte of the file twice.
#pragma once

#include "patch.h"

namespace corelocker {

// CORELOCKER_OK, CORELOCKER_PATCH_OVERLAP or CORELOCKER_MEMORY. The runs of `patch` are well-formed one by one.
corelocker_error check_overlap(const Patch& patch);

}  // namespace corelocker
