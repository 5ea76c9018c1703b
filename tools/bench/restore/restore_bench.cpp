// What restoring a model costs, beside decrypting all of it, copying all of it, and running the original.
//
// Usage: restore_bench ROWS [RUNS]. ROWS comes from make_models.py; RUNS (default 200) is how often each model runs.
// All files are in the page cache. Every ratio is of medians from this one process. What one thread does alone
// (restoring, decrypting, copying) is measured in its processor time, so that other load does not count; loading and
// running a model, which take several threads, in elapsed time.
#include <executorch/extension/module/module.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "../../../sdk/cpp/tools/sha256.h"
#include "corelocker/executorch.h"

namespace {

using corelocker::RestoredModule;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using Bytes = std::vector<uint8_t>;

constexpr int kRestores = 41;
constexpr int kWholeFilePasses = 7;
constexpr int kLoads = 6;

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "restore_bench: %s failed\n", what.c_str());
  std::exit(1);
}

Bytes read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  require(stream.good(), "reading " + path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct Row {
  std::string label;
  std::string percent;
  std::string original;
  std::string locked;
  std::string patch;
  std::string replaced_hex;
  std::string restored_hex;
  std::string input;
  std::string sizes;
};

std::vector<Row> read_rows(const std::string& path) {
  std::ifstream stream(path);
  require(stream.good(), "reading " + path);
  std::vector<Row> rows;
  Row r;
  while (stream >> r.label >> r.percent >> r.original >> r.locked >> r.patch >> r.replaced_hex >> r.restored_hex >>
         r.input >> r.sizes) {
    rows.push_back(r);
  }
  return rows;
}

Bytes from_hex(const std::string& hex) {
  Bytes bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::vector<int> parse_sizes(const std::string& text) {
  std::vector<int> sizes;
  std::istringstream stream(text);
  for (std::string size; std::getline(stream, size, ',');) sizes.push_back(std::stoi(size));
  return sizes;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double milliseconds_of(clockid_t clock, const std::function<void()>& work) {
  timespec start{};
  timespec end{};
  clock_gettime(clock, &start);
  work();
  clock_gettime(clock, &end);
  return static_cast<double>(end.tv_sec - start.tv_sec) * 1e3 + static_cast<double>(end.tv_nsec - start.tv_nsec) / 1e6;
}

double cpu_ms(const std::function<void()>& work) { return milliseconds_of(CLOCK_THREAD_CPUTIME_ID, work); }
double elapsed_ms(const std::function<void()>& work) { return milliseconds_of(CLOCK_MONOTONIC, work); }

double median_ms(int times, const std::function<double()>& measure) {
  std::vector<double> values(static_cast<size_t>(times));
  std::generate(values.begin(), values.end(), measure);
  return median(values);
}

uint64_t private_dirty_bytes() {
  std::ifstream stream("/proc/self/smaps_rollup");
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("Private_Dirty:", 0) == 0) return std::stoull(line.substr(14)) * 1024;
  }
  require(false, "reading smaps_rollup");
  return 0;
}

// AES-256-GCM with a fixed key: only the speed matters.
class Gcm {
 public:
  Bytes encrypt(const uint8_t* plain, size_t size) {
    Bytes sealed(size);
    run(true, plain, size, sealed.data());
    return sealed;
  }

  void decrypt(const Bytes& sealed, uint8_t* plain) { run(false, sealed.data(), sealed.size(), plain); }

 private:
  void run(bool encrypts, const uint8_t* from, size_t size, uint8_t* to) {
    const std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context(EVP_CIPHER_CTX_new(),
                                                                                  EVP_CIPHER_CTX_free);
    bool ok = EVP_CipherInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key_, nonce_, encrypts) == 1;
    constexpr size_t kPart = size_t{1} << 20;
    int written = 0;
    for (size_t i = 0; i < size; i += kPart) {
      const int part = static_cast<int>(std::min(kPart, size - i));
      ok &= EVP_CipherUpdate(context.get(), to + i, &written, from + i, part) == 1;
    }
    uint8_t none = 0;
    if (!encrypts) ok &= EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, 16, tag_) == 1;
    ok &= EVP_CipherFinal_ex(context.get(), &none, &written) == 1;
    if (encrypts) ok &= EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, 16, tag_) == 1;
    require(ok, "AES-256-GCM");
  }

  uint8_t key_[32] = {7};
  uint8_t nonce_[12] = {3};
  uint8_t tag_[16] = {};
};

// Fresh memory, as an app would have to take for a decrypted or copied model.
struct FreshMemory {
  explicit FreshMemory(size_t wanted) : size(wanted) {
    void* const mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(mapped != MAP_FAILED, "mmap");
    bytes = static_cast<uint8_t*>(mapped);
  }
  ~FreshMemory() { munmap(bytes, size); }
  FreshMemory(const FreshMemory&) = delete;
  FreshMemory& operator=(const FreshMemory&) = delete;

  uint8_t* bytes;
  size_t size;
};

struct WholeFile {
  double decrypt_ms;       // into fresh memory
  double decrypt_warm_ms;  // into memory that is there already: the cipher alone
  double copy_ms;          // into fresh memory
  size_t size;
};

WholeFile measure_whole_file(const std::string& path) {
  corelocker_file* file = nullptr;
  require(corelocker_open_path(path.c_str(), nullptr, &file) == CORELOCKER_OK, "opening " + path);
  const auto* const data = static_cast<const uint8_t*>(corelocker_data(file));
  const size_t size = corelocker_size(file);
  Gcm gcm;
  const Bytes sealed = gcm.encrypt(data, size);
  WholeFile result{};
  result.size = size;
  result.decrypt_ms = median_ms(kWholeFilePasses, [&] {
    const FreshMemory memory(size);
    return cpu_ms([&] { gcm.decrypt(sealed, memory.bytes); });
  });
  const FreshMemory kept(size);
  gcm.decrypt(sealed, kept.bytes);
  result.decrypt_warm_ms =
      median_ms(kWholeFilePasses, [&] { return cpu_ms([&] { gcm.decrypt(sealed, kept.bytes); }); });
  result.copy_ms = median_ms(kWholeFilePasses, [&] {
    const FreshMemory memory(size);
    return cpu_ms([&] { std::memcpy(memory.bytes, data, size); });
  });
  corelocker_close(file);
  return result;
}

// A locked file with its encrypted patch, ready to be restored again and again.
class LockedModel {
 public:
  explicit LockedModel(const Row& row)
      : path_(row.locked), replaced_(from_hex(row.replaced_hex)), restored_(from_hex(row.restored_hex)) {
    const Bytes patch = read_file(row.patch);
    sealed_ = gcm_.encrypt(patch.data(), patch.size());
    plain_.resize(patch.size());
  }

  size_t patch_size() const { return sealed_.size(); }

  // Decrypts the patch, maps the file, checks and applies.
  corelocker_file* restore() {
    gcm_.decrypt(sealed_, plain_.data());
    corelocker_patch entry = {plain_.data(), plain_.size(), replaced_.data(), restored_.data(), nullptr};
    const corelocker_options options = {sizeof(options), 0, &entry, 1, CORELOCKER_ANY_SIZE, sha256_by_openssl, nullptr};
    corelocker_file* file = nullptr;
    const corelocker_error error = corelocker_open_path(path_.c_str(), &options, &file);
    require(error == CORELOCKER_OK, "restoring " + path_ + " (" + corelocker_error_name(error) + ")");
    return file;
  }

 private:
  std::string path_;
  Bytes replaced_;
  Bytes restored_;
  Gcm gcm_;
  Bytes sealed_;
  Bytes plain_;
};

class Input {
 public:
  explicit Input(const Row& row) : bytes_(read_file(row.input)), sizes_(parse_sizes(row.sizes)), order_(sizes_.size()) {
    std::iota(order_.begin(), order_.end(), executorch::aten::DimOrderType{0});
    tensor_ = std::make_unique<TensorImpl>(ScalarType::Float, static_cast<ssize_t>(sizes_.size()), sizes_.data(),
                                           bytes_.data(), order_.data());
  }

  Bytes run(Module& module) const {
    const auto result = module.forward(EValue(Tensor(tensor_.get())));
    require(result.ok(), "running the model");
    const Tensor& output = result->at(0).toTensor();
    const auto* const data = static_cast<const uint8_t*>(output.const_data_ptr());
    return {data, data + output.nbytes()};
  }

 private:
  Bytes bytes_;
  std::vector<int> sizes_;
  std::vector<executorch::aten::DimOrderType> order_;
  std::unique_ptr<TensorImpl> tensor_;
};

struct Inference {
  double load_original_ms;
  double load_restored_ms;
  double run_original_ms;
  double run_restored_ms;
};

Inference measure_inference(const Row& row, LockedModel& locked, int runs) {
  const Input input(row);
  std::vector<double> load_original;
  std::vector<double> load_restored;
  std::vector<double> run_original;
  std::vector<double> run_restored;
  // Each round has fresh modules, for where a module's memory happens to lie shows in its speed; and who is first in
  // memory and in a turn changes, for the second finds other things in the caches.
  for (int round = 0; round < kLoads; round++) {
    Module original(row.original, Module::LoadMode::Mmap);
    RestoredModule restored(locked.restore());
    const auto load = [](Module& module, std::vector<double>& times) {
      times.push_back(elapsed_ms([&] { require(module.load_method("forward") == Error::Ok, "load_method"); }));
    };
    const auto run = [&](Module& module, std::vector<double>& times) {
      times.push_back(elapsed_ms([&] { input.run(module); }));
    };
    if (round % 2 == 0) load(original, load_original);
    load(restored, load_restored);
    if (round % 2 == 1) load(original, load_original);
    require(input.run(original) == input.run(restored), "the comparison of the outputs");
    for (int turn = 0; turn < (runs + kLoads - 1) / kLoads; turn++) {
      if (turn % 2 == 0) run(original, run_original);
      run(restored, run_restored);
      if (turn % 2 == 1) run(original, run_original);
    }
  }
  return {median(load_original), median(load_restored), median(run_original), median(run_restored)};
}

}  // namespace

int main(int argc, char** argv) {
  require(argc >= 2, "usage: restore_bench ROWS [RUNS]");
  const int runs = argc > 2 ? std::stoi(argv[2]) : 200;
  std::printf(
      "model  file MB  patch MB  patch %%  restore ms  of decrypt  of cipher  of memcpy  dirty MB  dirty %%  "
      "load ms (ratio)  run ms (ratio)\n");
  std::string measured;
  WholeFile whole{};
  for (const Row& row : read_rows(argv[1])) {
    if (row.original != measured) {
      whole = measure_whole_file(row.original);
      measured = row.original;
      std::printf("%s: AES-256-GCM of the whole file %.1f ms, the cipher alone %.1f ms; memcpy %.1f ms\n",
                  row.label.c_str(), whole.decrypt_ms, whole.decrypt_warm_ms, whole.copy_ms);
    }
    LockedModel locked(row);
    corelocker_close(locked.restore());
    const uint64_t before = private_dirty_bytes();
    corelocker_file* const file = locked.restore();
    const uint64_t dirty = private_dirty_bytes() - before;
    corelocker_close(file);
    const double restore_ms = median_ms(kRestores, [&] {
      corelocker_file* opened = nullptr;
      const double ms = cpu_ms([&] { opened = locked.restore(); });
      corelocker_close(opened);
      return ms;
    });
    const Inference inference = measure_inference(row, locked, runs);
    const auto size = static_cast<double>(whole.size);
    std::printf("%-5s  %7.1f  %8.2f  %7.2f  %10.2f  %10.5f  %9.5f  %9.5f  %8.2f  %7.2f  %7.1f (%5.3f)  %6.2f (%5.3f)\n",
                row.label.c_str(), size / 1e6, static_cast<double>(locked.patch_size()) / 1e6,
                100 * static_cast<double>(locked.patch_size()) / size, restore_ms, restore_ms / whole.decrypt_ms,
                restore_ms / whole.decrypt_warm_ms, restore_ms / whole.copy_ms, static_cast<double>(dirty) / 1e6,
                100 * static_cast<double>(dirty) / size, inference.load_restored_ms,
                inference.load_restored_ms / inference.load_original_ms, inference.run_restored_ms,
                inference.run_restored_ms / inference.run_original_ms);
    std::fflush(stdout);
  }
  return 0;
}
