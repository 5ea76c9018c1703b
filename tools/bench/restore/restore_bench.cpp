// What restoring a model costs, beside decrypting all of it, copying all of it, and running the original.
//
// Usage: restore_bench ROWS [RUNS [no-huge-pages]]. ROWS comes from make_models.py; RUNS (default 200) is how often
// each model runs, 0 leaves that out. Every ratio is of medians from this one process, and restoring and decrypting
// take turns. Both read what they need from the page cache: the encrypted patch and the locked file, or the whole
// encrypted file, in parts that stay in the processor's cache. Both put the model into new memory, and giving it back
// counts for neither. The whole file is decrypted twice: into memory as a program gets it that asks for nothing, with a
// fault for each page, and into memory that asks for huge pages. Restoring takes memory as the library chooses: private
// pages of a mapping, and huge pages where a patch touches much; `huge MB` says how much of those. The decrypted patch
// goes into memory that is kept. With `no-huge-pages` nobody gets huge pages, as on most phones. What one thread does
// alone (restoring, decrypting, copying) is measured in its processor time, so that other load does not count; loading
// and running a model, which take several threads, in elapsed time.
#include <executorch/extension/module/module.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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
constexpr int kRestoresPerDecrypt = 3;
constexpr int kChecks = 5;
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
  std::string state;  // percent that is locked by value, or `signs`
  std::string original;
  std::string locked;
  std::string patch;
  std::string locked_sample;
  std::string restored_sample;
  std::string restored_sha256;
  std::string input;
  std::string sizes;
};

std::vector<Row> read_rows(const std::string& path) {
  std::ifstream stream(path);
  require(stream.good(), "reading " + path);
  std::vector<Row> rows;
  Row r;
  while (stream >> r.label >> r.state >> r.original >> r.locked >> r.patch >> r.locked_sample >> r.restored_sample >>
         r.restored_sha256 >> r.input >> r.sizes) {
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

// A line of the kernel's account of this process's memory, in bytes.
uint64_t bytes_of(const std::string& line_name) {
  std::ifstream stream("/proc/self/smaps_rollup");
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind(line_name + ":", 0) == 0) return std::stoull(line.substr(line_name.size() + 1)) * 1024;
  }
  require(false, "reading smaps_rollup");
  return 0;
}

// An AES-256-GCM file in the page cache, with a fixed key: only the speed matters.
class EncryptedFile {
 public:
  explicit EncryptedFile(const Bytes& plain) : size_(plain.size()), fd_(memfd_create("encrypted", MFD_CLOEXEC)) {
    require(fd_ >= 0, "memfd_create");
    Cipher cipher(true);
    for (size_t i = 0; i < size_; i += kPart) {
      const size_t part = std::min(kPart, size_ - i);
      cipher.update(plain.data() + i, part, part_.data());
      require(write(fd_, part_.data(), part) == static_cast<ssize_t>(part), "writing the encrypted file");
    }
    cipher.finish(tag_);
  }
  ~EncryptedFile() { close(fd_); }
  EncryptedFile(const EncryptedFile&) = delete;
  EncryptedFile& operator=(const EncryptedFile&) = delete;

  size_t size() const { return size_; }

  void decrypt(uint8_t* plain) {
    Cipher cipher(false);
    for (size_t i = 0; i < size_; i += kPart) {
      const size_t part = std::min(kPart, size_ - i);
      require(pread(fd_, part_.data(), part, static_cast<off_t>(i)) == static_cast<ssize_t>(part), "reading");
      cipher.update(part_.data(), part, plain + i);
    }
    cipher.finish(tag_);
  }

 private:
  static constexpr size_t kPart = size_t{256} << 10;
  static constexpr size_t kTagSize = 16;

  class Cipher {
   public:
    explicit Cipher(bool encrypts) : encrypts_(encrypts) {
      const uint8_t key[32] = {7};
      const uint8_t nonce[12] = {3};
      require(EVP_CipherInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, key, nonce, encrypts) == 1, "AES-256-GCM");
    }
    void update(const uint8_t* from, size_t size, uint8_t* to) {
      int written = 0;
      require(EVP_CipherUpdate(context_.get(), to, &written, from, static_cast<int>(size)) == 1, "AES-256-GCM");
    }
    // Gives the tag, or checks it.
    void finish(uint8_t* tag) {
      uint8_t none = 0;
      int written = 0;
      EVP_CIPHER_CTX* const context = context_.get();
      bool ok = encrypts_ || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, kTagSize, tag) == 1;
      ok &= EVP_CipherFinal_ex(context, &none, &written) == 1;
      if (encrypts_) ok &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, kTagSize, tag) == 1;
      require(ok, "AES-256-GCM");
    }

   private:
    bool encrypts_;
    std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context_{EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free};
  };

  size_t size_;
  int fd_;
  Bytes part_ = Bytes(kPart);
  uint8_t tag_[kTagSize] = {};
};

enum class Pages { kUsual, kHuge };

// New memory, as an app has to take for a model that is decrypted or copied whole.
class NewMemory {
 public:
  NewMemory(size_t size, Pages pages) : size_(size + kHugePage) {
    void* const mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(mapped != MAP_FAILED, "mmap");
    base_ = static_cast<uint8_t*>(mapped);
    bytes = base_ + (kHugePage - reinterpret_cast<uintptr_t>(base_) % kHugePage) % kHugePage;
    // As far as the system allows it.
    (void)madvise(bytes, size, pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
  ~NewMemory() { munmap(base_, size_); }
  NewMemory(const NewMemory&) = delete;
  NewMemory& operator=(const NewMemory&) = delete;

  uint8_t* bytes;

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;

  size_t size_;
  uint8_t* base_;
};

// A model that is not locked, encrypted as a whole.
class WholeFile {
 public:
  explicit WholeFile(const std::string& path) : plain_(read_file(path)), encrypted_(plain_) {}

  size_t size() const { return plain_.size(); }
  double decrypt_ms(Pages pages) {
    return ms_with_new_memory(pages, [this](uint8_t* bytes) { encrypted_.decrypt(bytes); });
  }
  double copy_ms() const {
    return ms_with_new_memory(Pages::kUsual, [this](uint8_t* bytes) { std::memcpy(bytes, plain_.data(), size()); });
  }

 private:
  double ms_with_new_memory(Pages pages, const std::function<void(uint8_t*)>& fill) const {
    std::unique_ptr<NewMemory> memory;
    return cpu_ms([&] {
      memory = std::make_unique<NewMemory>(size(), pages);
      fill(memory->bytes);
    });
  }

  Bytes plain_;
  EncryptedFile encrypted_;
};

// A locked file with its encrypted patch, ready to be restored again and again.
class LockedModel {
 public:
  explicit LockedModel(const Row& row)
      : path_(row.locked),
        locked_sample_(from_hex(row.locked_sample)),
        restored_sample_(from_hex(row.restored_sample)),
        restored_sha256_(from_hex(row.restored_sha256)),
        plain_(read_file(row.patch)),
        encrypted_(plain_) {}

  size_t patch_size() const { return plain_.size(); }

  // Decrypts the patch, brings the file into memory, checks and applies.
  corelocker_file* restore(corelocker_full_check full_check = CORELOCKER_FULL_CHECK_OFF) {
    encrypted_.decrypt(plain_.data());
    corelocker_patch entry = {plain_.data(), plain_.size(), locked_sample_.data(), restored_sample_.data(),
                              restored_sha256_.data()};
    const corelocker_options options = {sizeof(options),   0,       &entry,     1,      CORELOCKER_ANY_SIZE,
                                        sha256_by_openssl, nullptr, full_check, nullptr};
    corelocker_file* file = nullptr;
    const corelocker_error error = corelocker_open_path(path_.c_str(), &options, &file);
    require(error == CORELOCKER_OK, "restoring " + path_ + " (" + corelocker_error_name(error) + ")");
    return file;
  }

 private:
  std::string path_;
  Bytes locked_sample_;
  Bytes restored_sample_;
  Bytes restored_sha256_;
  Bytes plain_;
  EncryptedFile encrypted_;
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

struct Restoring {
  double restore_ms;
  double checked_ms;  // with the full check
  double decrypt_ms;
  double decrypt_huge_ms;
  double copy_ms;
  uint64_t private_bytes;
  uint64_t huge_bytes;  // of these
};

Restoring measure_restoring(LockedModel& locked, WholeFile& whole) {
  Restoring result{};
  // Before the first measurement, so that the file is in the page cache; the kernel's account beside our own.
  corelocker_close(locked.restore());
  const uint64_t private_before = bytes_of("Private_Dirty");
  const uint64_t huge_before = bytes_of("AnonHugePages");
  corelocker_file* const file = locked.restore();
  result.private_bytes = bytes_of("Private_Dirty") - private_before;
  result.huge_bytes = bytes_of("AnonHugePages") - huge_before;
  corelocker_close(file);

  std::vector<double> restores;
  std::vector<double> decrypts;
  std::vector<double> huge_decrypts;
  const auto restore_ms = [&](corelocker_full_check full_check) {
    corelocker_file* opened = nullptr;
    const double ms = cpu_ms([&] { opened = locked.restore(full_check); });
    corelocker_close(opened);
    return ms;
  };
  for (int i = 0; i < kRestores; i++) {
    restores.push_back(restore_ms(CORELOCKER_FULL_CHECK_OFF));
    if (i % kRestoresPerDecrypt != 0) continue;
    decrypts.push_back(whole.decrypt_ms(Pages::kUsual));
    huge_decrypts.push_back(whole.decrypt_ms(Pages::kHuge));
  }
  result.restore_ms = median(restores);
  result.decrypt_ms = median(decrypts);
  result.decrypt_huge_ms = median(huge_decrypts);
  result.checked_ms = median_ms(kChecks, [&] { return restore_ms(CORELOCKER_FULL_CHECK_ALWAYS); });
  result.copy_ms = median_ms(kChecks, [&] { return whole.copy_ms(); });
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  require(argc >= 2, "usage: restore_bench ROWS [RUNS]");
  const int runs = argc > 2 ? std::stoi(argv[2]) : 200;
  if (argc > 3) require(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0, "turning huge pages off");
  std::printf(
      "model  locked  file MB  patch MB  private MB  private %%  huge MB  restore ms  of AES-256-GCM  of it in huge "
      "pages  "
      "of memcpy  with full check ms  load ms (ratio)  run ms (ratio)\n");
  std::unique_ptr<WholeFile> whole;
  std::string measured;
  for (const Row& row : read_rows(argv[1])) {
    if (row.original != measured) {
      whole = std::make_unique<WholeFile>(row.original);
      measured = row.original;
    }
    LockedModel locked(row);
    const Restoring restoring = measure_restoring(locked, *whole);
    const auto size = static_cast<double>(whole->size());
    std::printf("%-5s  %6s  %7.1f  %8.2f  %10.2f  %9.2f  %7.1f  %10.2f  %14.5f  %19.5f  %9.5f  %18.1f",
                row.label.c_str(), row.state.c_str(), size / 1e6, static_cast<double>(locked.patch_size()) / 1e6,
                static_cast<double>(restoring.private_bytes) / 1e6,
                100 * static_cast<double>(restoring.private_bytes) / size,
                static_cast<double>(restoring.huge_bytes) / 1e6, restoring.restore_ms,
                restoring.restore_ms / restoring.decrypt_ms, restoring.restore_ms / restoring.decrypt_huge_ms,
                restoring.restore_ms / restoring.copy_ms, restoring.checked_ms);
    if (runs > 0) {
      const Inference inference = measure_inference(row, locked, runs);
      std::printf("  %7.1f (%5.3f)  %6.2f (%5.3f)", inference.load_restored_ms,
                  inference.load_restored_ms / inference.load_original_ms, inference.run_restored_ms,
                  inference.run_restored_ms / inference.run_original_ms);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  return 0;
}
