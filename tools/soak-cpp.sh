#!/usr/bin/env bash
# Runs for long what the C++ gates run for short: threads on the host and under ThreadSanitizer, and the fuzz target.
#
# CORELOCKER_ROUNDS is how often each thread opens, uses and closes a file (default 1000), SECONDS_EACH how long the fuzz target
# runs (default 600). Builds what it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
export CORELOCKER_ROUNDS=${CORELOCKER_ROUNDS:-1000}
build=.build/cpp
CORELOCKER_EXECUTORCH_DIR=$(.venv/bin/python -c 'import importlib.util as u; print(*u.find_spec("executorch").submodule_search_locations)')/share/cmake
export CORELOCKER_EXECUTORCH_DIR

# The host gate makes the models of the tests.
[ -e .cache/cpp-fixtures/.key ] || tools/test-cpp.sh host

make_program() {
  (cd sdk/cpp && cmake --preset "$1" >/dev/null)
  cmake --build "$build/$1" --target "$2" --parallel "${JOBS:-$(nproc)}" >/dev/null
}

for preset in host tsan; do
  make_program "$preset" threads_test
  echo "== threads_test, $preset"
  TSAN_OPTIONS=suppressions=tests/cpp/tsan.supp "$build/$preset/tests/threads_test" --gtest_brief=1
done
make_program asan patch_fuzz
echo "== patch_fuzz"
corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT
"$build/asan/tests/patch_fuzz" "-max_total_time=${SECONDS_EACH:-600}" "$corpus" tests/cpp/fuzz/corpus
