// ExecuTorch on restored files: a DataLoader without a copy, and a Module on top of it.
//
// Link corelocker::executorch and ExecuTorch itself. Compiles without exceptions and RTTI.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/runtime/core/data_loader.h>

#include "corelocker/corelocker.h"

namespace corelocker {

// The ExecuTorch error that is nearest to a CoreLocker error.
::executorch::runtime::Error to_executorch_error(corelocker_error error);

// Hands out the bytes of a restored file where they lie: a .pte, or a .ptd for Module's data_map_loader.
class RestoredDataLoader final : public ::executorch::runtime::DataLoader {
 public:
  // Takes the handle over and closes it. `file` is what a corelocker_open function returned, not NULL.
  explicit RestoredDataLoader(corelocker_file* file);
  // Shares a handle with whoever else holds it; the deleter closes it, or releases what owns it.
  explicit RestoredDataLoader(std::shared_ptr<corelocker_file> file) : file_(std::move(file)) {}

  const corelocker_file* file() const { return file_.get(); }

  // Errors: InvalidArgument when the bytes are not all inside the file, AccessFailed when the file has changed since it
  // was opened (corelocker_check). The buffer must not outlive the loader.
  ::executorch::runtime::Result<::executorch::runtime::FreeableBuffer> load(size_t offset, size_t size,
                                                                            const SegmentInfo& info) const override;
  // Same errors. The only copy that the loader makes, into the caller's buffer.
  ::executorch::runtime::Error load_into(size_t offset, size_t size, const SegmentInfo& info,
                                         void* buffer) const override;
  ::executorch::runtime::Result<size_t> size() const override;

 private:
  ::executorch::runtime::Error check_range(size_t offset, size_t size) const;

  const std::shared_ptr<corelocker_file> file_;
};

// A Module that runs a restored program, with restored external weights where it has them outside of itself (.ptd).
//
// It refuses to load and to run (AccessFailed) once a mapped file has been written to or shortened: instead of a wrong
// answer or a crash the caller gets an error. XNNPACK and other delegates copy weights while a method loads, so going
// from the locked to the restored model, or back, means a new module. Never set XNNPACK's packed_cache_path for a
// restored model: it writes the restored weights to storage.
class RestoredModule final : public ::executorch::extension::Module {
 public:
  // Takes the handles over; `data` is NULL when the program holds all of its weights, `tracer` when nothing is
  // profiled.
  explicit RestoredModule(corelocker_file* program, corelocker_file* data = nullptr,
                          std::unique_ptr<::executorch::runtime::EventTracer> tracer = nullptr);
  // Shares the handles, as RestoredDataLoader does: several modules can run from one mapping.
  explicit RestoredModule(const std::shared_ptr<corelocker_file>& program,
                          const std::shared_ptr<corelocker_file>& data = nullptr,
                          std::unique_ptr<::executorch::runtime::EventTracer> tracer = nullptr);

  // Opens the files and makes the module; `data_path` may be NULL. `error`, when not NULL, gets the exact reason of a
  // failure. The patches of both options are consumed (corelocker_patch) whatever happens.
  static ::executorch::runtime::Result<std::unique_ptr<RestoredModule>> open(
      const char* path, const corelocker_options* options, const char* data_path = nullptr,
      const corelocker_options* data_options = nullptr, corelocker_error* error = nullptr);

  using Module::execute;
  ::executorch::runtime::Result<std::vector<::executorch::runtime::EValue>> execute(
      const std::string& method_name, const std::vector<::executorch::runtime::EValue>& input_values) override;

  const corelocker_file* program_file() const { return program_file_; }
  const corelocker_file* data_file() const { return data_file_; }

 private:
  // Held by the loaders that Module has.
  const corelocker_file* const program_file_;
  const corelocker_file* const data_file_;
};

}  // namespace corelocker
