#include "corelocker/executorch.h"

#include <cstring>
#include <utility>

namespace corelocker {

using ::executorch::extension::Module;
using ::executorch::runtime::Error;
using ::executorch::runtime::EValue;
using ::executorch::runtime::FreeableBuffer;
using ::executorch::runtime::Result;

Error to_executorch_error(corelocker_error error) {
  switch (error) {
    case CORELOCKER_OK:
      return Error::Ok;
    case CORELOCKER_ARGUMENT:
      return Error::InvalidArgument;
    case CORELOCKER_MEMORY:
      return Error::MemoryAllocationFailed;
    case CORELOCKER_FILE_ACCESS:
    case CORELOCKER_FILE_CHANGED:
      return Error::AccessFailed;
    default:
      return Error::InvalidExternalData;
  }
}

namespace {

std::shared_ptr<corelocker_file> owned(corelocker_file* file) {
  return file != nullptr ? std::shared_ptr<corelocker_file>(file, corelocker_close) : nullptr;
}

std::unique_ptr<RestoredDataLoader> loader(std::shared_ptr<corelocker_file> file) {
  return file != nullptr ? std::make_unique<RestoredDataLoader>(std::move(file)) : nullptr;
}

}  // namespace

RestoredDataLoader::RestoredDataLoader(corelocker_file* file) : RestoredDataLoader(owned(file)) {}

Error RestoredDataLoader::check_range(size_t offset, size_t size) const {
  const size_t file_size = corelocker_size(file());
  if (offset > file_size || size > file_size - offset) return Error::InvalidArgument;
  return to_executorch_error(corelocker_check(file()));
}

Result<FreeableBuffer> RestoredDataLoader::load(size_t offset, size_t size, const SegmentInfo& /*info*/) const {
  const Error error = check_range(offset, size);
  if (error != Error::Ok) return error;
  return FreeableBuffer(static_cast<const uint8_t*>(corelocker_data(file())) + offset, size, nullptr);
}

Error RestoredDataLoader::load_into(size_t offset, size_t size, const SegmentInfo& /*info*/, void* buffer) const {
  if (buffer == nullptr && size > 0) return Error::InvalidArgument;
  const Error error = check_range(offset, size);
  if (error == Error::Ok && size > 0) {
    std::memcpy(buffer, static_cast<const uint8_t*>(corelocker_data(file())) + offset, size);
  }
  return error;
}

Result<size_t> RestoredDataLoader::size() const { return corelocker_size(file()); }

RestoredModule::RestoredModule(corelocker_file* program, corelocker_file* data,
                               std::unique_ptr<::executorch::runtime::EventTracer> tracer)
    : RestoredModule(owned(program), owned(data), std::move(tracer)) {}

RestoredModule::RestoredModule(const std::shared_ptr<corelocker_file>& program,
                               const std::shared_ptr<corelocker_file>& data,
                               std::unique_ptr<::executorch::runtime::EventTracer> tracer)
    : Module(loader(program), nullptr, nullptr, std::move(tracer), loader(data)),
      program_file_(program.get()),
      data_file_(data.get()) {}

Result<std::unique_ptr<RestoredModule>> RestoredModule::open(const char* path, const corelocker_options* options,
                                                             const char* data_path,
                                                             const corelocker_options* data_options,
                                                             corelocker_error* error) {
  corelocker_file* program = nullptr;
  corelocker_file* data = nullptr;
  // Both are opened even when the first fails, so that the patches of both are wiped.
  corelocker_error result = corelocker_open_path(path, options, &program);
  if (data_path != nullptr) {
    const corelocker_error data_result = corelocker_open_path(data_path, data_options, &data);
    if (result == CORELOCKER_OK) result = data_result;
  }
  if (error != nullptr) *error = result;
  if (result == CORELOCKER_OK) return std::make_unique<RestoredModule>(program, data);
  corelocker_close(program);
  corelocker_close(data);
  return to_executorch_error(result);
}

Result<std::vector<EValue>> RestoredModule::execute(const std::string& method_name,
                                                    const std::vector<EValue>& input_values) {
  for (const corelocker_file* file : {program_file_, data_file_}) {
    if (file == nullptr) continue;
    const corelocker_error error = corelocker_check(file);
    if (error != CORELOCKER_OK) return to_executorch_error(error);
  }
  return Module::execute(method_name, input_values);
}

}  // namespace corelocker
