#include "restore.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "patch.h"
#include "private_pages.h"
#include "sample.h"
#include "steps.h"

namespace corelocker {
namespace {

// A patch of the request while it is checked and applied. Plain data: zero is empty.
struct Section {
  Patch patch;
  Sample sample;
  bool sampled;
  uint8_t locked_sample[kDigestSize];  // of the file as it was opened
};

bool same_digest(const uint8_t* expected, const uint8_t* digest) {
  return expected == nullptr || std::memcmp(expected, digest, kDigestSize) == 0;
}

class Restoration {
 public:
  Restoration(Request& request, Mapping* file) : request_(request), file_(*file) {}
  ~Restoration();
  Restoration(const Restoration&) = delete;
  Restoration& operator=(const Restoration&) = delete;

  corelocker_error run(Restored* restored);

 private:
  corelocker_error prepare();
  corelocker_error parse();
  corelocker_error obtain_memory();
  corelocker_error load();
  static uint8_t* consume(const Run& run, uint8_t* part);
  corelocker_error take_part(uint64_t from, uint64_t to);
  corelocker_error check_locked();
  corelocker_error apply_all();
  corelocker_error check_restored(size_t index);
  corelocker_error check_whole(Restored* restored);
  void apply(size_t index);
  void undo(size_t count);
  uint8_t* payload(size_t index) const { return request_.patch_bytes(index) + sections_[index].patch.payload_offset(); }

  Request& request_;
  Mapping& file_;
  Section* sections_ = nullptr;
  bool flips_ = false;
  PrivatePages pages_{};        // of a file that is mapped
  bool first_applied_ = false;  // the first patch was applied while the file came into memory
};

Restoration::~Restoration() {
  for (size_t i = 0; sections_ != nullptr && i < request_.patch_count(); i++) sections_[i].sample.free();
  std::free(sections_);
  pages_.free();
}

corelocker_error Restoration::run(Restored* restored) {
  corelocker_error error = prepare();
  if (error == CORELOCKER_OK) error = load();
  if (error == CORELOCKER_OK) error = check_locked();
  if (error == CORELOCKER_OK) error = apply_all();
  if (error != CORELOCKER_OK) return error;
  error = check_whole(restored);
  if (error == CORELOCKER_OK) error = file_.make_read_only();
  if (error == CORELOCKER_OK) error = file_.check();
  if (error != CORELOCKER_OK) {
    undo(request_.patch_count());
    return error;
  }
  if (restored->stamped) remember_stamp(restored->stamp);
  if (file_.of_file()) restored->private_bytes = file_.copied ? file_.base_size : pages_.bytes();
  if (file_.copied) file_.forget_file();
  return CORELOCKER_OK;
}

// Everything that needs no byte of the file.
corelocker_error Restoration::prepare() {
  if (!request_.wants_size(file_.size)) return CORELOCKER_RESTORE_SIZE;
  const corelocker_error error = parse();
  return error == CORELOCKER_OK && file_.of_file() ? obtain_memory() : error;
}

corelocker_error Restoration::parse() {
  sections_ = static_cast<Section*>(std::calloc(request_.patch_count() + 1, sizeof(Section)));
  if (sections_ == nullptr) return CORELOCKER_MEMORY;
  for (size_t i = 0; i < request_.patch_count(); i++) {
    const corelocker_patch& wanted = request_.patch(i);
    Section& section = sections_[i];
    const corelocker_error error = Patch::parse(request_.patch_bytes(i), wanted.size, file_.size, &section.patch);
    if (error != CORELOCKER_OK) return error;
    flips_ |= section.patch.flips();
  }
  for (size_t i = 0; i < request_.patch_count(); i++) {
    const corelocker_patch& wanted = request_.patch(i);
    sections_[i].sampled = wanted.locked_sample != nullptr || wanted.restored_sample != nullptr;
    if (!sections_[i].sampled) continue;
    const corelocker_error error = sections_[i].sample.prepare(sections_[i].patch, file_.size);
    if (error != CORELOCKER_OK) return error;
  }
  return CORELOCKER_OK;
}

corelocker_error Restoration::obtain_memory() {
  if (request_.copy() || !file_.aligned()) return file_.allocate();
  const corelocker_error error = pages_.prepare(&file_);
  if (error != CORELOCKER_OK) return error;
  for (size_t i = 0; i < request_.patch_count(); i++) pages_.mark(sections_[i].patch);
  return pages_.map();
}

// Brings the file into memory part by part: gathers the samples of the locked file, and applies the first patch. A
// buffer is in memory already, and stays as it is until the samples are compared.
corelocker_error Restoration::load() {
  const bool applies = file_.of_file() && request_.patch_count() > 0;
  Steps steps(applies ? &sections_[0].patch : nullptr, file_.size);
  uint8_t* part = applies ? payload(0) : nullptr;
  uint64_t position = 0;
  for (Step step; steps.next(&step); position = step.end) {
    const corelocker_error error = take_part(position, step.end);
    if (error != CORELOCKER_OK) return error;
    if (step.cut_to > 0) {
      const Run run = sections_[0].patch.run(step.first);
      apply_run(run, step.cut_from, step.cut_to, file_.data, part, Payload::kConsumed);
      if (step.cut_to == run.size()) part = consume(run, part);
    }
    for (uint32_t i = step.first; i < step.last; i++) {
      const Run run = sections_[0].patch.run(i);
      apply_run(run, 0, run.size(), file_.data, part, Payload::kConsumed);
      part = consume(run, part);
    }
    if (applies && sections_[0].sampled) sections_[0].sample.gather_restored(position, step.end, file_);
  }
  first_applied_ = applies;
  if (applies) request_.keep_to_wipe(sections_[0].patch.payload_offset());
  return CORELOCKER_OK;
}

// Wipes what a run that is applied leaves of its part of the payload, and returns the next run's part.
uint8_t* Restoration::consume(const Run& run, uint8_t* part) {
  if (run.kind != Kind::kReplace) corelocker_wipe(part, static_cast<size_t>(run.payload_size()));
  return part + run.payload_size();
}

corelocker_error Restoration::take_part(uint64_t from, uint64_t to) {
  corelocker_error error = CORELOCKER_OK;
  if (file_.of_file()) {
    error = file_.copied ? file_.read(from, to) : pages_.take(to);
  }
  for (size_t i = 0; i < request_.patch_count() && error == CORELOCKER_OK; i++) {
    if (sections_[i].sampled) error = sections_[i].sample.gather_locked(from, to, file_);
  }
  return error;
}

// Whether the file, as it was opened, is the locked file of every section.
corelocker_error Restoration::check_locked() {
  bool replaced = false;
  bool already = false;
  for (size_t i = 0; i < request_.patch_count(); i++) {
    const corelocker_patch& wanted = request_.patch(i);
    Section& section = sections_[i];
    if (!section.sampled) continue;
    const corelocker_error error =
        request_.sha256(section.sample.locked(), section.sample.size(), section.locked_sample);
    if (error != CORELOCKER_OK) return error;
    replaced |= !same_digest(wanted.locked_sample, section.locked_sample);
    // Where a patch changes nothing that its sample covers, the sample does not tell the two states apart.
    already |= wanted.restored_sample != nullptr && !same_digest(wanted.restored_sample, wanted.locked_sample) &&
               same_digest(wanted.restored_sample, section.locked_sample);
  }
  if (!replaced) return CORELOCKER_OK;
  return already ? CORELOCKER_RESTORE_ALREADY : CORELOCKER_RESTORE_REPLACED;
}

corelocker_error Restoration::apply_all() {
  for (size_t i = 0; i < request_.patch_count(); i++) {
    if (i > 0 || !first_applied_) apply(i);
    const corelocker_error error = check_restored(i);
    if (error == CORELOCKER_OK) continue;
    undo(i + 1);
    return error;
  }
  return CORELOCKER_OK;
}

// Undoes the first `count` patches where the memory is the caller's; other memory is given back anyway.
void Restoration::undo(size_t count) {
  if (file_.of_file()) return;
  while (count-- > 0) apply(count);
}

// Applies a whole patch; once more undoes it where the memory is the caller's.
void Restoration::apply(size_t index) {
  const Patch& patch = sections_[index].patch;
  const Payload payload_use = file_.of_file() ? Payload::kConsumed : Payload::kExchanged;
  uint8_t* part = payload(index);
  for (uint32_t i = 0; i < patch.run_count(); i++) {
    const Run run = patch.run(i);
    apply_run(run, 0, run.size(), file_.data, part, payload_use);
    part += run.payload_size();
  }
}

corelocker_error Restoration::check_restored(size_t index) {
  const uint8_t* const expected = request_.patch(index).restored_sample;
  if (expected == nullptr) return CORELOCKER_OK;
  Sample& sample = sections_[index].sample;
  if (index > 0 || !first_applied_) sample.gather_restored(0, file_.size, file_);
  uint8_t digest[kDigestSize];
  const corelocker_error error = request_.sha256(sample.restored(), sample.size(), digest);
  if (error != CORELOCKER_OK) return error;
  return same_digest(expected, digest) ? CORELOCKER_OK : CORELOCKER_RESTORE_RESTORED;
}

corelocker_error Restoration::check_whole(Restored* restored) {
  const corelocker_full_check mode = request_.full_check(flips_);
  if (mode == CORELOCKER_FULL_CHECK_OFF) return CORELOCKER_OK;
  const uint8_t* const expected = request_.final_sha256();
  if (file_.of_file()) {
    restored->stamp = make_stamp(file_.identity, expected);
    restored->stamped = true;
    if (mode == CORELOCKER_FULL_CHECK_ONCE && is_remembered(restored->stamp)) return CORELOCKER_OK;
  }
  uint8_t digest[kDigestSize];
  const corelocker_error error = request_.sha256(file_.data, file_.size, digest);
  if (error != CORELOCKER_OK) return error;
  return same_digest(expected, digest) ? CORELOCKER_OK : CORELOCKER_RESTORE_RESTORED;
}

}  // namespace

corelocker_error restore(Request& request, Mapping* file, Restored* restored) {
  return Restoration(request, file).run(restored);
}

}  // namespace corelocker
