#!/bin/bash
# Builds and runs every gate of the C++ layer, each under .build/cpp, and says at the end what passed, was skipped and failed.
#
# Usage: tools/test-cpp.sh [GATE..], by default all. JOBS limits the compile jobs. A gate that cannot run prints
# "SKIPPED <gate>: <reason>"; with CI=true that fails. tools/setup-cpp.sh installs what the gates need.
set -uo pipefail
cd "$(dirname "$0")/.."
source tools/gates.sh
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
build=$root/.build/cpp
logs=$build/logs
fixtures=$root/.cache/cpp-fixtures
jobs=${JOBS:-$(nproc)}
all_gates=(vectors-agree host package asan tsan arm64 size android-arm64 android-x86_64 ios-arm64 ios-simulator format tidy)
mkdir -p "$logs"

# Where the ExecuTorch of this environment has its CMake package; the presets read these.
CORELOCKER_EXECUTORCH_DIR=$("$python" -c 'import importlib.util as u; print(*u.find_spec("executorch").submodule_search_locations)')/share/cmake
export CORELOCKER_EXECUTORCH_DIR
export CORELOCKER_ARM64_EXECUTORCH_DIR=$root/.cache/executorch-arm64/executorch/share/cmake
export CORELOCKER_ARM64_OPENSSL=$root/.cache/openssl-arm64

need_command() { command -v "$1" >/dev/null || echo "no $1"; }
need_file() { [ -e "$1" ] || echo "no ${1#"$root"/}"; }

# Why a gate cannot run; nothing when it can.
obstacle() {
  case $1 in
    vectors-agree) need_command cmake ;;
    host | package) need_command cmake && need_file /usr/src/googletest && need_file /usr/include/nlohmann ;;
    asan | tsan) need_command clang++-19 && need_file /usr/src/googletest && need_file /usr/include/nlohmann ;;
    arm64)
      need_command aarch64-linux-gnu-g++ && need_command qemu-aarch64 && need_file "$CORELOCKER_ARM64_EXECUTORCH_DIR" &&
        need_file "$CORELOCKER_ARM64_OPENSSL/lib"
      ;;
    android-* | ios-*)
      need_file /usr/lib/llvm-19/bin/ld64.lld && need_file /usr/lib/llvm-19/include/c++/v1 &&
        need_file "$root/.cache/executorch-mobile/include" && need_file "$root/.cache/zig-headers/ziglang"
      ;;
    format) need_command clang-format-19 ;;
    tidy) need_command clang-tidy-19 ;;
  esac
}

# The models of the tests: exported and locked again when the code that makes them has changed.
make_fixtures() {
  local code key
  mapfile -t code < <(find sdk/python/corelocker/{artifacts,bundle,locking} -name '*.py' | sort)
  key=$(cat tests/cpp/make_fixtures.py "${code[@]}" | sha256sum)
  [ "$(cat "$fixtures/.key" 2>/dev/null)" = "$key" ] && return
  rm -rf "$fixtures"
  PYTHONPATH=sdk/python "$python" tests/cpp/make_fixtures.py "$fixtures" && echo "$key" >"$fixtures/.key"
}

preset() { (cd sdk/cpp && cmake --preset "$1" && cmake --build --preset "$1" --parallel "$jobs" && ctest --preset "$1"); }

gate_host() { preset host; }
gate_asan() { preset asan; }
gate_tsan() { preset tsan; }
gate_arm64() { preset arm64; }

# Python and C++ read the same random patches and must say the same.
gate_vectors-agree() {
  cmake -S sdk/cpp -B "$build/shared" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DCORELOCKER_EXECUTORCH=OFF \
    -DCORELOCKER_TOOLS=OFF && cmake --build "$build/shared" --parallel "$jobs" &&
    PYTHONPATH=sdk/python "$python" tests/cpp/compare_with_python.py "$build/shared/libcorelocker_core.so"
}

# Installs, and builds and runs an app against what was installed.
gate_package() {
  local prefix=$build/installed
  rm -rf "$prefix" "$build/package"
  cmake -S sdk/cpp -B "$build/static" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_INSTALL_PREFIX=$prefix" \
    "-Dexecutorch_DIR=$CORELOCKER_EXECUTORCH_DIR" && cmake --build "$build/static" --parallel "$jobs" --target install &&
    cmake -S tests/cpp/package -B "$build/package" -G Ninja "-DCMAKE_PREFIX_PATH=$prefix" \
      "-Dexecutorch_DIR=$CORELOCKER_EXECUTORCH_DIR" "-DMODEL=$fixtures/xnnpack_fp32/original/model.pte" &&
    cmake --build "$build/package" && ctest --test-dir "$build/package" --output-on-failure
}

gate_size() {
  local library size
  cmake -S sdk/cpp -B "$build/shared" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DCORELOCKER_EXECUTORCH=OFF \
    -DCORELOCKER_TOOLS=OFF && cmake --build "$build/shared" --parallel "$jobs" || return
  library=$(readlink -f "$build/shared/libcorelocker_core.so")
  strip -o "$build/stripped.so" "$library" && size=$(stat -c %s "$build/stripped.so") || return
  echo "the stripped core library has $size bytes"
  [ "$size" -lt 100000 ]
}

gate_android-arm64() { tools/link-mobile-cpp.sh android-arm64 "$build/android-arm64"; }
gate_android-x86_64() { tools/link-mobile-cpp.sh android-x86_64 "$build/android-x86_64"; }
gate_ios-arm64() { tools/link-mobile-cpp.sh ios-arm64 "$build/ios-arm64"; }
gate_ios-simulator() { tools/link-mobile-cpp.sh ios-simulator "$build/ios-simulator"; }

gate_format() {
  find sdk/cpp tests/cpp tools/bench/restore \( -name '*.cpp' -o -name '*.h' -o -name '*.c' \) -print0 |
    xargs -0 clang-format-19 "--style=file:sdk/cpp/.clang-format" --dry-run --Werror
}

gate_tidy() {
  (cd sdk/cpp && cmake --preset host -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >/dev/null) || return
  find sdk/cpp/src sdk/cpp/tools tools/bench/restore -name '*.cpp' -print0 |
    xargs -0 -n 1 -P "$jobs" clang-tidy-19 --quiet -p "$build/host" --config-file=sdk/cpp/.clang-tidy
}

make_fixtures >"$logs/fixtures.log" 2>&1 || { cat "$logs/fixtures.log" && echo "FAILED fixtures" && exit 1; }
run_gates C++ tools/setup-cpp.sh "${@:-${all_gates[@]}}"
