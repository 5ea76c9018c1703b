// Runs a program over images for the Swift tests, which load this library with dlopen.
#include <cstring>
#include <memory>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>

#include "corelocker/executorch.h"

namespace {

using corelocker::RestoredModule;
using executorch::aten::SizesType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::Error;

constexpr SizesType kSide = 28;
constexpr size_t kClasses = 10;

int run(Module& module, float* images, size_t count, float* scores) {
  for (size_t i = 0; i < count; i++) {
    const auto result = module.forward(from_blob(images + i * kSide * kSide, {1, 1, kSide, kSide}));
    if (!result.ok()) return static_cast<int>(result.error());
    const auto output = result->at(0).toTensor();
    if (output.numel() != kClasses) return static_cast<int>(Error::InvalidType);
    std::memcpy(scores + i * kClasses, output.const_data_ptr(), kClasses * sizeof(float));
  }
  return 0;
}

}  // namespace

// `images` float32 (count, 1, 28, 28), `scores` float32 (count, 10). Both return ExecuTorch's error number.

// The handle stays the caller's.
extern "C" __attribute__((visibility("default"))) int runner_restored(corelocker_file* program, float* images,
                                                                      size_t count, float* scores) {
  RestoredModule module(std::shared_ptr<corelocker_file>(program, [](corelocker_file*) {}));
  return run(module, images, count, scores);
}

// By ExecuTorch alone.
extern "C" __attribute__((visibility("default"))) int runner_file(const char* path, float* images, size_t count,
                                                                  float* scores) {
  Module module(path);
  return run(module, images, count, scores);
}
