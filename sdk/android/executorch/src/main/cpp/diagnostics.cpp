#include "diagnostics.h"

#include <jni.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>

#include <executorch/runtime/platform/platform.h>
#ifdef CORELOCKER_PROFILING
#include <executorch/devtools/etdump/etdump_flatcc.h>
#endif

#include "handles.h"

namespace corelocker::jni {
namespace {

constexpr size_t remembered_lines = 64;

struct Log {
  std::mutex lock;
  std::deque<std::string> lines;
  pal_emit_log_message_method before = nullptr;
};

// Never destroyed: threads of ExecuTorch may log while the process ends.
Log& the_log() {
  static Log* log = new Log;
  return *log;
}

// NewStringUTF takes modified UTF-8, and what others log may be anything.
std::string ascii(std::string text) {
  for (char& character : text) {
    if (static_cast<signed char>(character) <= 0) character = '?';
  }
  return text;
}

void remember(et_timestamp_t timestamp, et_pal_log_level_t level, const char* file, const char* function, size_t line,
              const char* message, size_t length) {
  Log& log = the_log();
  {
    const std::lock_guard<std::mutex> guard(log.lock);
    if (log.lines.size() == remembered_lines) log.lines.pop_front();
    log.lines.push_back(ascii("[" + std::to_string(timestamp) + " " + function + " " + file + ":" + std::to_string(line) + "] " +
                              static_cast<char>(level) + " " + std::string(message, length)));
  }
  if (log.before != nullptr) log.before(timestamp, level, file, function, line, message, length);
}

}  // namespace

void remember_log() {
  static std::once_flag once;
  std::call_once(once, [] {
    the_log().before = executorch::runtime::get_pal_impl()->emit_log_message;
    executorch::runtime::register_pal(executorch::runtime::PalImpl::create(remember, __FILE__));
  });
}

std::unique_ptr<::executorch::runtime::EventTracer> new_tracer() {
#ifdef CORELOCKER_PROFILING
  return std::make_unique<executorch::etdump::ETDumpGen>();
#else
  return nullptr;
#endif
}

}  // namespace corelocker::jni

extern "C" {

// The lines that ExecuTorch logged last, oldest first.
JNIEXPORT jobjectArray JNICALL Java_org_corelocker_executorch_NativeModule_logLines(JNIEnv* env, jclass) {
  auto& log = corelocker::jni::the_log();
  std::deque<std::string> lines;
  {
    const std::lock_guard<std::mutex> guard(log.lock);
    lines = log.lines;
  }
  return corelocker::jni::array_of(env, lines);
}

// Writes the profile of the calls since the last time: names of operators and times, no value of a tensor. False when there is
// none, or it cannot be written.
JNIEXPORT jboolean JNICALL Java_org_corelocker_executorch_NativeModule_etdump([[maybe_unused]] JNIEnv* env, jclass,
                                                                               [[maybe_unused]] jlong handle,
                                                                               [[maybe_unused]] jstring path) {
#ifdef CORELOCKER_PROFILING
  auto* tracer = static_cast<executorch::etdump::ETDumpGen*>(corelocker::jni::module_of(handle)->event_tracer());
  if (tracer->get_num_blocks() == 0) return JNI_FALSE;
  std::FILE* file = std::fopen(corelocker::jni::text_of(env, path).c_str(), "wb");
  if (file == nullptr) return JNI_FALSE;
  const auto dump = tracer->get_etdump_data();
  const std::unique_ptr<void, void (*)(void*)> owner(dump.buf, std::free);
  // A dump that was taken cannot be taken again.
  tracer->reset();
  const bool written = dump.buf != nullptr && dump.size > 0 && std::fwrite(dump.buf, dump.size, 1, file) == 1;
  return std::fclose(file) == 0 && written ? JNI_TRUE : JNI_FALSE;
#else
  return JNI_FALSE;
#endif
}

}  // extern "C"
