#include <corelocker/executorch.h>

#include <cstdio>

int main(int, char** argv) {
  corelocker_error reason = CORELOCKER_OK;
  auto module = corelocker::RestoredModule::open(argv[1], nullptr, nullptr, nullptr, &reason);
  if (!module.ok()) return 1;
  const auto names = (*module)->method_names();
  if (!names.ok() || names->count("forward") != 1) return 2;
  std::printf("%s\n", corelocker_error_name(reason));
  return (*module)->load_method("forward") == executorch::runtime::Error::Ok ? 0 : 3;
}
