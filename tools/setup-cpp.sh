#!/bin/bash
# Installs what the C++ gates need; run again at any time, finished steps are skipped.
#
# Compilers and libraries come from Debian (by the machine's own apt configuration), the arm64 ExecuTorch from its wheel, and
# prebuilt ExecuTorch libraries for Android and iOS from an npm package. Downloads go to .cache/. A step that fails is named
# and the others go on; tools/test-cpp.sh then skips the gates that need it.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
cache=$PWD/.cache
mkdir -p "$cache"
failed=0

# step NAME MARKER COMMAND..: runs COMMAND unless the file MARKER exists
step() {
  local name=$1 marker=$2
  shift 2
  [ -e "$marker" ] && return
  echo "== $name"
  if "$@"; then
    mkdir -p "$(dirname "$marker")" && touch "$marker"
  else
    echo "setup-cpp: $name failed" >&2
    failed=1
  fi
}

debian_packages() {
  local wanted=(
    cmake ninja-build g++ libssl-dev libgtest-dev nlohmann-json3-dev
    clang-19 lld-19 llvm-19 libc++-19-dev libclang-rt-19-dev clang-format-19 clang-tidy-19
    g++-aarch64-linux-gnu qemu-user
  )
  command -v npm >/dev/null || wanted+=(npm)
  tools/debian.sh "${wanted[@]}"
}

# The wheel for arm64 Linux of the version that is installed here.
arm64_executorch() {
  local target=$cache/executorch-arm64
  rm -rf "$target" && mkdir -p "$target"
  "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
    --python-version 3.11 --dest "$target" "executorch==$executorch" &&
    "$python" -m zipfile -e "$target"/executorch-*.whl "$target" && rm "$target"/executorch-*.whl
}

# OpenSSL for arm64: an apt of its own, so that the machine's architectures stay as they are.
arm64_openssl() {
  local target=$cache/openssl-arm64 apt package
  apt=$(mktemp -d)
  mkdir -p "$apt"/{lists,cache,debs} "$target"
  printf 'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\nAPT::Sandbox::User "";\n' >"$apt/apt.conf"
  local options=(-q -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o Dir::State::status=/dev/null)
  export APT_CONFIG=$apt/apt.conf
  apt-get "${options[@]}" update && (cd "$apt/debs" && apt-get "${options[@]}" download libssl3 libssl-dev)
  unset APT_CONFIG
  for package in "$apt"/debs/*.deb; do dpkg -x "$package" "$apt/root" || break; done
  rm -rf "$target" && mkdir -p "$target"
  cp -r "$apt/root/usr/include" "$target/include" &&
    cp "$apt/root/usr/include/aarch64-linux-gnu/openssl/"* "$target/include/openssl/" &&
    cp -r "$apt/root/usr/lib/aarch64-linux-gnu" "$target/lib"
  local result=$?
  rm -rf "$apt"
  return $result
}

# ExecuTorch as others have built it with the NDK and with Xcode: headers and libraries to link against.
mobile_executorch() {
  local target=$cache/executorch-mobile
  rm -rf "$target" && mkdir -p "$target"
  (cd "$target" && npm pack --silent react-native-executorch@0.8.5) &&
    tar -xzf "$target"/react-native-executorch-*.tgz -C "$target" --strip-components=2 package/third-party/include \
      package/third-party/android/libs/executorch package/third-party/ios/ExecutorchLib.xcframework &&
    rm "$target"/*.tgz
}

# C library headers of Android's and Apple's kind, which Zig ships as text.
mobile_headers() {
  local target=$cache/zig-headers
  rm -rf "$target" && mkdir -p "$target"
  "$python" -m pip download -q --disable-pip-version-check --no-deps --dest "$target" ziglang==0.15.2 &&
    "$python" - "$target" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

target = Path(sys.argv[1])
wheel = next(target.glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.startswith("ziglang/lib/libc/include/") or name.startswith("ziglang/lib/libc/darwin/"):
            archive.extract(name, target)
wheel.unlink()
PYTHON
}

executorch=$("$python" -c 'import importlib.metadata as m; print(m.version("executorch"))')
debian_packages || { echo "setup-cpp: Debian packages failed" >&2 && failed=1; }
step "ExecuTorch $executorch for arm64" "$cache/executorch-arm64/.done-$executorch" arm64_executorch
step "OpenSSL for arm64" "$cache/openssl-arm64/.done" arm64_openssl
step "ExecuTorch for Android and iOS" "$cache/executorch-mobile/.done" mobile_executorch
step "headers for Android and iOS" "$cache/zig-headers/.done" mobile_headers
exit $failed
