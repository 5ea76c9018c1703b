#!/bin/bash
# link-mobile-cpp.sh android-arm64|android-x86_64|android-arm64-jni|android-x86_64-jni|ios-arm64|ios-simulator OUT
#
# Compiles the C++ layer for a phone and links it against a prebuilt ExecuTorch, without the NDK and without Xcode; for iOS the
# Objective-C++ of sdk/apple/ExecuTorch too. A check and no release build: the headers of the C library are musl's and Zig's,
# Foundation's are our own, and nothing here can run. Fails when a symbol of ExecuTorch is missing, when an Android library is
# not laid out for 16 KB pages, or when the stripped core reaches 100 KB.
set -euo pipefail
target=$1
out=$2
root=$(cd "$(dirname "$0")/.." && pwd)
libc=$root/.cache/zig-headers/ziglang/lib/libc/include
mobile=$root/.cache/executorch-mobile
llvm=/usr/lib/llvm-19
wheel=$("${PYTHON:-$root/.venv/bin/python}" -c 'import importlib.util as u; print(*u.find_spec("executorch").submodule_search_locations)')
core_limit=100000
core=(api errors flip mapping overlap patch private_pages request restore sample stamps steps)
all=("${core[@]}" executorch)
rm -rf "$out" && mkdir -p "$out/config"

# What libc++ expects of a platform, besides the C library: its own configuration and headers that musl does not have.
configure_libcxx() {
  sed "s/\(#define _LIBCPP_ABI_NAMESPACE\).*/\1 $1/" "$llvm/include/c++/v1/__config_site" >"$out/config/__config_site"
}

# compile_file SOURCE OBJECT OPTION..
compile_file() {
  local source=$1 object=$2
  shift 2
  "$llvm/bin/clang++" "$@" -std=c++17 -O2 -fPIC -ffunction-sections -fdata-sections -fno-exceptions -fno-rtti -Wall -Wextra \
    -Werror -DCORELOCKER_SHARED -DC10_USING_CUSTOM_GENERATED_MACROS -nostdinc++ -isystem "$out/config" \
    -isystem "$llvm/include/c++/v1" "${system_headers[@]}" -isystem "$mobile/include" -I"$root/sdk/cpp/include" -c "$source" \
    -o "$out/$object.o"
}

# The loader's C++ API is exported here, or the linker would drop all of it as unused.
compile() {
  local source visibility
  for source in "${all[@]}"; do
    visibility=hidden
    [ "$source" = executorch ] && visibility=default
    compile_file "$root/sdk/cpp/src/$source.cpp" "$source" "$@" -fvisibility=$visibility
  done
}

# Names in the first file that begin or go on with ExecuTorch's or our own namespaces and are not in the second.
missing_symbols() {
  comm -23 <(sort -u "$1") <(sort -u "$2") | "$llvm/bin/llvm-cxxfilt" | grep -E 'executorch|torch::|et_pal|corelocker|ExecuTorch' || true
}

check_symbols() {
  local missing
  missing=$(missing_symbols "$out/needed" "$out/offered")
  if [ -n "$missing" ]; then
    echo "missing symbols:" && echo "$missing"
    exit 1
  fi
  local used
  used=$(comm -12 <(sort -u "$out/needed") <(sort -u "$out/offered") | wc -l)
  echo "$target: $used symbols of ExecuTorch found, none missing"
  [ "$used" -gt 0 ]
}

check_size() {
  local size
  "$llvm/bin/llvm-strip" "$2" -o "$out/stripped" "$1"
  size=$(stat -c %s "$out/stripped")
  echo "$target: the stripped core has $size bytes"
  [ "$size" -lt "$core_limit" ]
}

# prepare_android PROCESSOR: headers, and the flags of compiler and linker.
prepare_android() {
  configure_libcxx __ndk1
  sed -i 's/.*_LIBCPP_HAS_MUSL_LIBC.*/#define _LIBCPP_HAS_MUSL_LIBC/' "$out/config/__config_site"
  mkdir -p "$out/config/android"
  cat >"$out/config/xlocale.h" <<'HEADER'
#include <locale.h>
extern "C" long long strtoll_l(const char*, char**, int, locale_t);
extern "C" unsigned long long strtoull_l(const char*, char**, int, locale_t);
HEADER
  echo '#define __NDK_MAJOR__ 27' >"$out/config/android/ndk-version.h"
  echo '#pragma once' >"$out/config/android/api-level.h"
  system_headers=(-isystem "$libc/$1-linux-musl" -isystem "$libc/generic-musl")
  android_compile=("--target=$1-linux-android26" -D_GNU_SOURCE)
  android_link=(-shared -z max-page-size=16384 -z noexecstack -z relro -z now --gc-sections --build-id)
}

# check_pages LIBRARY: every segment that is mapped is aligned to 16 KB.
check_pages() {
  "$llvm/bin/llvm-readelf" -lW "$1" | awk '$1 == "LOAD" { seen = 1 } $1 == "LOAD" && $NF != "0x4000" { bad = 1 } END { exit bad || !seen }' ||
    { echo "$1 is not laid out for 16 KB pages" && exit 1; }
}

symbols() { "$llvm/bin/llvm-nm" -D --format=just-symbols "$@"; }

link_android() {
  local executorch=$mobile/android/libs/executorch/$2/libexecutorch.so
  prepare_android "$1"
  compile "${android_compile[@]}"
  "$llvm/bin/ld.lld" "${android_link[@]}" -soname libcorelocker_core.so -o "$out/libcorelocker_core.so" "${core[@]/%/.o}"
  "$llvm/bin/ld.lld" "${android_link[@]}" --whole-archive -soname libcorelocker.so -o "$out/libcorelocker.so" "${all[@]/%/.o}" \
    "$executorch" --unresolved-symbols=ignore-all
  check_pages libcorelocker_core.so && check_pages libcorelocker.so
  symbols --undefined-only libcorelocker.so >needed
  symbols --defined-only "$executorch" >offered
  check_symbols
  check_size libcorelocker_core.so --strip-all
}

# sdk/apple/ExecuTorch with one version's headers and its manifest's flags: objc FOLDER OBJECTIVE_C_HEADERS C++_HEADERS OPTION..
objc() {
  local folder=$1 headers=$2 include=$3 module=$root/sdk/apple/ExecuTorch/RestoredModule source
  shift 3
  grep -qF '.unsafeFlags(["-fno-rtti"])' "$root/sdk/apple/ExecuTorch/Package.swift"
  mkdir -p "$folder"
  ln -s "$headers" "$folder/ExecuTorch"
  for source in Loader.cpp CoreLockerRestoredModule.mm; do
    "$llvm/bin/clang++" "$@" -std=c++17 -O2 -fobjc-arc -fno-exceptions -fno-rtti -Wall -Wextra -Werror -nostdinc++ \
      -Wno-unused-command-line-argument -DC10_USING_CUSTOM_GENERATED_MACROS -isystem "$out/config" \
      -isystem "$llvm/include/c++/v1" "${system_headers[@]}" -isystem "$folder" -isystem "$include" \
      -isystem "$include/executorch/runtime/core/portable_type/c10" -isystem "$root/tests/apple/objc" \
      -I"$root/sdk/cpp/include" -I"$module/include" -c "$module/$source" -o "$folder/${source%.*}.o"
  done
}

# check_exports LIBRARY PATTERN..: nothing is exported but symbols that match, and each pattern matches one.
check_exports() {
  local library=$1 pattern exported others
  exported=$(symbols --defined-only "$library")
  shift
  for pattern; do grep -qE "^$pattern" <<<"$exported" || { echo "$library exports no $pattern" && exit 1; }; done
  others=$(grep -vE "^($(IFS='|' && echo "$*"))" <<<"$exported" || true)
  [ -z "$others" ] || { echo "$library exports more than it should:" && echo "$others" && exit 1; }
}

# check_natives LIBRARY KOTLIN_FILE CLASS: each external function of the class is there.
check_natives() {
  local name exported
  exported=$(symbols --defined-only "$1")
  for name in $(sed -nE 's/.*external fun ([A-Za-z0-9]+).*/\1/p' "$2"); do
    grep -qx "Java_${3}_$name" <<<"$exported" || { echo "$1 has no function for $3.$name" && exit 1; }
  done
}

# The native libraries of the Kotlin library: jni.cpp over the core, and the functions of ExecuTorch over that.
link_android_jni() {
  local android=$root/sdk/android executorch=$mobile/android/libs/executorch/$2/libexecutorch.so jdk source
  jdk=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
  prepare_android "$1"
  # The JDK's jni.h is last: it brings types of its own for Linux.
  system_headers+=(-isystem "$jdk/include" -isystem "$jdk/include/linux")
  for source in "${all[@]}"; do compile_file "$root/sdk/cpp/src/$source.cpp" "$source" "${android_compile[@]}" -fvisibility=hidden; done
  compile_file "$android/android/src/main/cpp/jni.cpp" jni "${android_compile[@]}" -fvisibility=hidden
  for source in module diagnostics; do
    compile_file "$android/executorch/src/main/cpp/$source.cpp" "$source" "${android_compile[@]}" -fvisibility=hidden
  done
  "$llvm/bin/ld.lld" "${android_link[@]}" -soname libcorelocker.so -o "$out/libcorelocker.so" "${core[@]/%/.o}" jni.o
  "$llvm/bin/ld.lld" "${android_link[@]}" -soname libcorelocker_executorch.so -o "$out/libcorelocker_executorch.so" executorch.o \
    module.o diagnostics.o libcorelocker.so "$executorch" --unresolved-symbols=ignore-all
  check_pages libcorelocker.so && check_pages libcorelocker_executorch.so
  check_exports libcorelocker.so Java_org_corelocker_android_NativeCore_ corelocker_
  check_exports libcorelocker_executorch.so Java_org_corelocker_executorch_NativeModule_
  check_natives libcorelocker.so "$android/android/src/main/kotlin/org/corelocker/android/NativeCore.kt" org_corelocker_android_NativeCore
  check_natives libcorelocker_executorch.so "$android/executorch/src/main/kotlin/org/corelocker/executorch/NativeModule.kt" \
    org_corelocker_executorch_NativeModule
  symbols --undefined-only libcorelocker_executorch.so >needed
  symbols --defined-only "$executorch" libcorelocker.so | grep -v ':$' >offered
  check_symbols
  echo "$target: $(stat -c %s libcorelocker.so libcorelocker_executorch.so | tr '\n' ' ')bytes"
}

# Methods that ExecuTorch implements without exporting them.
check_methods() {
  local method
  "$llvm/bin/llvm-nm" --defined-only --format=just-symbols "$1" >methods
  for method in '-[ExecuTorchMethodMetadata initWithMethodMetadata:error:]' '-[ExecuTorchModule executeMethod:withInputs:error:]'; do
    grep -qxF -- "$method" methods || { echo "ExecuTorch has no $method" && exit 1; }
  done
}

link_ios() {
  local triple=$1 slice=$2 platform=$3
  local framework=$mobile/ios/ExecutorchLib.xcframework/$slice/ExecutorchLib.framework/ExecutorchLib
  configure_libcxx __1
  system_headers=(-isystem "$libc/any-macos-any")
  local options=("--target=$triple" -D_LIBCPP_HAS_NO_VENDOR_AVAILABILITY_ANNOTATIONS)
  compile "${options[@]}"
  local flags=(-arch arm64 -platform_version "$platform" 17.0 17.0 -dylib -dead_strip -undefined dynamic_lookup)
  "$llvm/bin/ld64.lld" "${flags[@]}" -o core.dylib "${core[@]/%/.o}"
  objc binary "$mobile/include/executorch" "$mobile/include" "${options[@]}"
  # The binaries at hand are older than the exporter's version, with whose headers it must compile as well.
  objc newest "$root/tests/apple/objc/headers" "$wheel/include" "${options[@]}"
  check_methods "$framework"
  "$llvm/bin/ld64.lld" "${flags[@]}" -o corelocker.dylib "${all[@]/%/.o}" binary/CoreLockerRestoredModule.o "$framework"
  "$llvm/bin/llvm-nm" --undefined-only --format=just-symbols corelocker.dylib >needed
  "$llvm/bin/llvm-nm" --defined-only --extern-only --format=just-symbols "$framework" >offered
  check_symbols
  check_size core.dylib -x
}

cd "$out"
case $target in
  android-arm64) link_android aarch64 arm64-v8a ;;
  android-x86_64) link_android x86_64 x86_64 ;;
  android-arm64-jni) link_android_jni aarch64 arm64-v8a ;;
  android-x86_64-jni) link_android_jni x86_64 x86_64 ;;
  ios-arm64) link_ios arm64-apple-ios17.0 ios-arm64 ios ;;
  ios-simulator) link_ios arm64-apple-ios17.0-simulator ios-arm64-simulator ios-simulator ;;
  *) echo "unknown target $target" && exit 2 ;;
esac
