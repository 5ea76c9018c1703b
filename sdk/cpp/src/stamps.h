// Which files have passed the full check in this process.
#pragma once

#include <cstdint>

#include "corelocker/corelocker.h"
#include "mapping.h"

namespace corelocker {

struct Stamp {
  uint8_t bytes[CORELOCKER_STAMP_SIZE];
};

// Stands for the part of a file that was opened, in the state that `sha256` (32 bytes) is of.
Stamp make_stamp(const FileIdentity& identity, const uint8_t* sha256);

// The last CORELOCKER_STAMP_CAPACITY stamps of the process, safe for all threads.
void remember_stamp(const Stamp& stamp);
bool is_remembered(const Stamp& stamp);

}  // namespace corelocker
