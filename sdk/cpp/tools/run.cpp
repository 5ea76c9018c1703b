// corelocker-run: restores a locked .pte (and .ptd) in memory and runs one of its methods, for tests and measurements.
//
// A decrypted patch is a secret: hand it over through a pipe (--patch /dev/fd/3) rather than a file on a disk.
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "corelocker/executorch.h"
#include "sha256.h"

namespace {

using corelocker::RestoredModule;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::runtime::Error;
using executorch::runtime::EValue;

constexpr char kUsage[] =
    R"(usage: corelocker-run --model FILE.pte [options]
  --patch FILE[:LOCKED:RESTORED:SHA256]  apply a decrypted patch to the model; repeat in tier order. LOCKED and RESTORED are
                                         the samples of the bundle, SHA256 the digest of the restored file, all in hex;
                                         without them only the patch's form is checked
  --data FILE.ptd                        external weights
  --data-patch FILE[:...]                apply a decrypted patch to them
  --method NAME                          default: forward
  --input FILE[:D1,D2,..]                raw little-endian values of one input; repeat. Sizes default to the method's own
  --output PREFIX                        write the raw values of output i to PREFIX.i
  --repeat N                             run N times (default 1) and print the median time
  --weight-cache                         turn XNNPACK's weight cache on
  --copy                                 read the files into memory instead of mapping them
  --full-check                           compare the SHA-256 of the whole files
Prints one line of JSON. Exit status: 0, 1 for an error of the files, patches or model, 2 for an error of usage.
)";

[[noreturn]] void fail(int status, const std::string& message) {
  std::fprintf(stderr, "corelocker-run: %s\n", message.c_str());
  std::exit(status);
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail(1, "cannot read " + path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t end; (end = text.find(separator, start)) != std::string::npos; start = end + 1) {
    parts.push_back(text.substr(start, end - start));
  }
  parts.push_back(text.substr(start));
  return parts;
}

uint64_t parse_number(const std::string& text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') fail(2, "not a number: " + text);
  return value;
}

std::vector<uint8_t> parse_digest(const std::string& hex) {
  if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos) {
    fail(2, "not a SHA-256 digest in lower-case hex: " + hex);
  }
  std::vector<uint8_t> digest;
  for (size_t i = 0; i < hex.size(); i += 2) {
    digest.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  }
  return digest;
}

// A patch as the command line names it, in memory.
struct PatchArgument {
  std::vector<uint8_t> bytes;
  std::vector<std::vector<uint8_t>> digests;  // none, or of the locked and the restored sample and the restored file

  explicit PatchArgument(const std::string& text) {
    const std::vector<std::string> parts = split(text, ':');
    if (parts.size() != 1 && parts.size() != 4) fail(2, "--patch takes FILE or FILE:LOCKED:RESTORED:SHA256");
    bytes = read_file(parts[0]);
    for (size_t i = 1; i < parts.size(); i++) digests.push_back(parse_digest(parts[i]));
  }
};

// The options of an open call, and what they point to.
class OpenOptions {
 public:
  OpenOptions(std::vector<PatchArgument>& arguments, bool copy, bool full_check) {
    options_.flags = copy ? CORELOCKER_COPY : 0;
    if (full_check && !arguments.empty()) options_.full_check = CORELOCKER_FULL_CHECK_ALWAYS;
    for (PatchArgument& argument : arguments) {
      corelocker_patch patch = {argument.bytes.data(), argument.bytes.size(), nullptr, nullptr, nullptr};
      if (argument.digests.empty()) {
        options_.flags |= CORELOCKER_UNCHECKED;
      } else {
        patch.locked_sample = argument.digests[0].data();
        patch.restored_sample = argument.digests[1].data();
        patch.restored_sha256 = argument.digests[2].data();
      }
      patches_.push_back(patch);
    }
    options_.patches = patches_.data();
    options_.patch_count = patches_.size();
  }
  OpenOptions(const OpenOptions&) = delete;
  OpenOptions& operator=(const OpenOptions&) = delete;

  const corelocker_options* get() const { return &options_; }

 private:
  corelocker_options options_ = {
      sizeof(corelocker_options),    0,      nullptr, 0, CORELOCKER_ANY_SIZE, sha256_by_openssl, nullptr,
      CORELOCKER_FULL_CHECK_DEFAULT, nullptr};
  std::vector<corelocker_patch> patches_;
};

struct Input {
  std::vector<uint8_t> bytes;
  std::vector<executorch::aten::SizesType> sizes;
  std::vector<executorch::aten::DimOrderType> dim_order;
  std::optional<TensorImpl> tensor;
};

struct Arguments {
  std::string model;
  std::string data;
  std::string method = "forward";
  std::string output;
  std::vector<PatchArgument> patches;
  std::vector<PatchArgument> data_patches;
  std::vector<std::string> inputs;
  uint64_t repeat = 1;
  bool weight_cache = false;
  bool copy = false;
  bool full_check = false;
};

Arguments parse_arguments(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; i++) {
    const std::string option = argv[i];
    if (option == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (option == "--weight-cache") {
      arguments.weight_cache = true;
      continue;
    }
    if (option == "--copy") {
      arguments.copy = true;
      continue;
    }
    if (option == "--full-check") {
      arguments.full_check = true;
      continue;
    }
    if (i + 1 == argc) fail(2, "an option without a value, or an unknown one: " + option);
    const std::string value = argv[++i];
    if (option == "--model") {
      arguments.model = value;
    } else if (option == "--patch") {
      arguments.patches.emplace_back(value);
    } else if (option == "--data") {
      arguments.data = value;
    } else if (option == "--data-patch") {
      arguments.data_patches.emplace_back(value);
    } else if (option == "--method") {
      arguments.method = value;
    } else if (option == "--input") {
      arguments.inputs.push_back(value);
    } else if (option == "--output") {
      arguments.output = value;
    } else if (option == "--repeat") {
      arguments.repeat = parse_number(value);
    } else {
      fail(2, "an unknown option: " + option);
    }
  }
  if (arguments.model.empty() || arguments.repeat == 0) {
    std::fputs(kUsage, stderr);
    std::exit(2);
  }
  return arguments;
}

void check(Error error, const std::string& what) {
  if (error != Error::Ok) fail(1, what + ": " + executorch::runtime::to_string(error));
}

// The inputs as tensors of the method's types. `inputs` owns what the values point to and must not move.
std::vector<EValue> make_inputs(RestoredModule& module, const Arguments& arguments, std::vector<Input>& inputs) {
  const auto meta = module.method_meta(arguments.method);
  check(meta.error(), "method " + arguments.method);
  if (arguments.inputs.size() != meta->num_inputs()) {
    fail(2, "the method takes " + std::to_string(meta->num_inputs()) + " inputs");
  }
  std::vector<EValue> values;
  inputs.resize(meta->num_inputs());
  for (size_t i = 0; i < inputs.size(); i++) {
    Input& input = inputs[i];
    const auto info = meta->input_tensor_meta(i);
    check(info.error(), "input " + std::to_string(i) + " is not a tensor");
    const std::vector<std::string> parts = split(arguments.inputs[i], ':');
    input.bytes = read_file(parts[0]);
    input.sizes.assign(info->sizes().begin(), info->sizes().end());
    if (parts.size() == 2) {
      input.sizes.clear();
      for (const std::string& size : split(parts[1], ',')) input.sizes.push_back(static_cast<int>(parse_number(size)));
    }
    input.dim_order.assign(info->dim_order().begin(), info->dim_order().end());
    if (input.dim_order.size() != input.sizes.size()) fail(2, "input " + std::to_string(i) + " has another rank");
    input.tensor.emplace(info->scalar_type(), static_cast<ssize_t>(input.sizes.size()), input.sizes.data(),
                         input.bytes.data(), input.dim_order.data());
    if (input.tensor->nbytes() != input.bytes.size()) {
      fail(2, parts[0] + " has " + std::to_string(input.bytes.size()) + " bytes, but input " + std::to_string(i) +
                  " has " + std::to_string(input.tensor->nbytes()));
    }
    values.emplace_back(Tensor(&*input.tensor));
  }
  return values;
}

void write_outputs(const std::vector<EValue>& values, const std::string& prefix) {
  for (size_t i = 0; i < values.size(); i++) {
    if (!values[i].isTensor()) continue;
    const Tensor& tensor = values[i].toTensor();
    const std::string path = prefix + "." + std::to_string(i);
    std::ofstream stream(path, std::ios::binary);
    stream.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
    if (!stream.flush()) fail(1, "cannot write " + path);
  }
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments = parse_arguments(argc, argv);
  if (arguments.weight_cache) {
    executorch::runtime::BackendOptions<1> options;
    check(options.set_option("weight_cache_enabled", true), "weight cache");
    check(executorch::runtime::set_option("XnnpackBackend", options.view()), "weight cache");
  }

  auto start = std::chrono::steady_clock::now();
  const OpenOptions options(arguments.patches, arguments.copy, arguments.full_check);
  const OpenOptions data_options(arguments.data_patches, arguments.copy, arguments.full_check);
  corelocker_error reason = CORELOCKER_OK;
  auto opened =
      RestoredModule::open(arguments.model.c_str(), options.get(),
                           arguments.data.empty() ? nullptr : arguments.data.c_str(), data_options.get(), &reason);
  if (!opened.ok()) fail(1, std::string(corelocker_error_name(reason)) + ": " + corelocker_error_text(reason));
  RestoredModule& module = **opened;
  const double open_ms = milliseconds_since(start);

  start = std::chrono::steady_clock::now();
  check(module.load_method(arguments.method), "loading " + arguments.method);
  const double load_ms = milliseconds_since(start);

  std::vector<Input> inputs;
  const std::vector<EValue> values = make_inputs(module, arguments, inputs);
  std::vector<double> run_ms;
  for (uint64_t i = 0; i < arguments.repeat; i++) {
    start = std::chrono::steady_clock::now();
    const auto result = module.execute(arguments.method, values);
    run_ms.push_back(milliseconds_since(start));
    check(result.error(), "running " + arguments.method);
    if (i == 0 && !arguments.output.empty()) write_outputs(*result, arguments.output);
  }
  std::nth_element(run_ms.begin(), run_ms.begin() + static_cast<ptrdiff_t>(run_ms.size() / 2), run_ms.end());

  uint64_t private_bytes = corelocker_private_bytes(module.program_file());
  if (module.data_file() != nullptr) private_bytes += corelocker_private_bytes(module.data_file());
  std::printf("{\"open_ms\": %.3f, \"load_ms\": %.3f, \"run_ms\": %.4f, \"private_bytes\": %llu}\n", open_ms, load_ms,
              run_ms[run_ms.size() / 2], static_cast<unsigned long long>(private_bytes));
  return 0;
}
