// What ExecuTorch says of itself: its last log lines, and profiles.
#pragma once

#include <memory>

#include <executorch/runtime/core/event_tracer.h>

namespace corelocker::jni {

// From here on ExecuTorch's log lines are remembered, besides going where they went before (on Android to logcat).
void remember_log();

// What profiles a module; NULL in a library that was built without CORELOCKER_PROFILING.
std::unique_ptr<::executorch::runtime::EventTracer> new_tracer();

}  // namespace corelocker::jni
