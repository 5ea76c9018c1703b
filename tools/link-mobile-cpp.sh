#!/bin/bash
# link-mobile-cpp.sh android-arm64|android-x86_64|ios-arm64|ios-simulator OUT
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

# The loader's C++ API is exported here, or the linker would drop all of it as unused.
compile() {
  local source visibility
  for source in "${all[@]}"; do
    visibility=hidden
    [ "$source" = executorch ] && visibility=default
    "$llvm/bin/clang++" "$@" -std=c++17 -O2 -fPIC -fvisibility=$visibility -ffunction-sections -fdata-sections \
      -fno-exceptions -fno-rtti -Wall -Wextra -Werror -DCORELOCKER_SHARED -DC10_USING_CUSTOM_GENERATED_MACROS -nostdinc++ \
      -isystem "$out/config" -isystem "$llvm/include/c++/v1" "${system_headers[@]}" -isystem "$mobile/include" \
      -I"$root/sdk/cpp/include" -c "$root/sdk/cpp/src/$source.cpp" -o "$out/$source.o"
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

link_android() {
  local processor=$1 abi=$2 library
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
  system_headers=(-isystem "$libc/$processor-linux-musl" -isystem "$libc/generic-musl")
  compile "--target=$processor-linux-android26" -D_GNU_SOURCE
  local flags=(-shared -z max-page-size=16384 -z noexecstack -z relro -z now --gc-sections --build-id)
  "$llvm/bin/ld.lld" "${flags[@]}" -soname libcorelocker_core.so -o "$out/libcorelocker_core.so" "${core[@]/%/.o}"
  "$llvm/bin/ld.lld" "${flags[@]}" --whole-archive -soname libcorelocker.so -o "$out/libcorelocker.so" "${all[@]/%/.o}" \
    "$mobile/android/libs/executorch/$abi/libexecutorch.so" --unresolved-symbols=ignore-all
  for library in libcorelocker_core.so libcorelocker.so; do
    "$llvm/bin/llvm-readelf" -lW "$library" | awk '$1 == "LOAD" && $NF != "0x4000" { bad = 1 } END { exit bad }' ||
      { echo "$library is not laid out for 16 KB pages" && exit 1; }
  done
  "$llvm/bin/llvm-nm" -D --undefined-only --format=just-symbols libcorelocker.so >needed
  "$llvm/bin/llvm-nm" -D --defined-only --format=just-symbols \
    "$mobile/android/libs/executorch/$abi/libexecutorch.so" >offered
  check_symbols
  check_size libcorelocker_core.so --strip-all
}

# sdk/apple/ExecuTorch with one version's headers: objc FOLDER OBJECTIVE_C_HEADERS C++_HEADERS OPTION..
objc() {
  local folder=$1 headers=$2 include=$3 module=$root/sdk/apple/ExecuTorch/RestoredModule source
  shift 3
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
  ios-arm64) link_ios arm64-apple-ios17.0 ios-arm64 ios ;;
  ios-simulator) link_ios arm64-apple-ios17.0-simulator ios-arm64-simulator ios-simulator ;;
  *) echo "unknown target $target" && exit 2 ;;
esac
