#!/usr/bin/env bash
# Runs for long what the C++ gates run for short: threads on the host and under ThreadSanitizer, and the fuzz target.
#
# CORELOCKER_ROUNDS is how often each thread opens, uses and closes a file (default 1000), SECONDS_EACH how long the fuzz target
# runs (default 600). tools/test-cpp.sh has to have built the host, asan and tsan presets.
set -euo pipefail
cd "$(dirname "$0")/.."
export CORELOCKER_ROUNDS=${CORELOCKER_ROUNDS:-1000}
build=.build/cpp
for preset in host tsan; do
  echo "== threads_test, $preset"
  TSAN_OPTIONS=suppressions=tests/cpp/tsan.supp "$build/$preset/tests/threads_test" --gtest_brief=1
done
echo "== patch_fuzz"
corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT
"$build/asan/tests/patch_fuzz" "-max_total_time=${SECONDS_EACH:-600}" "$corpus" tests/cpp/fuzz/corpus
