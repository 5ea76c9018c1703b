#!/bin/bash
# Installs what the Android gates need; run again at any time, finished steps are skipped.
#
# JDK and Maven come from Debian (by the machine's own apt configuration), everything else by Maven (by its own
# configuration) in the versions of sdk/android/gradle/libs.versions.toml. A step that fails is named and the others go on;
# tools/test-android.sh then skips the gates that need it.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
cache=$PWD/.cache/android
mkdir -p "$cache"
failed=0

# step NAME COMMAND..
step() {
  local name=$1
  shift
  "$@" || {
    echo "setup-android: $name failed" >&2
    failed=1
  }
}

debian_packages() {
  local wanted=()
  command -v javac >/dev/null || wanted+=(openjdk-17-jdk-headless)
  command -v mvn >/dev/null || wanted+=(maven)
  command -v npm >/dev/null || wanted+=(npm)
  # The tools of packages: aapt2, apksigner, and the framework's resources.
  wanted+=(aapt apksigner android-framework-res unzip)
  for package in cmake ninja-build g++; do command -v "${package%-build}" >/dev/null || wanted+=("$package"); done
  # To draw the demo's screens as a phone does.
  wanted+=(libgl1 libfontconfig1 libfreetype6 libx11-6 fonts-roboto-unhinted)
  tools/debian.sh "${wanted[@]}"
}

class_paths() {
  "$python" tools/android/classpaths.py sdk/android/gradle/libs.versions.toml tools/android/gates.toml "$cache/classpaths"
}

# What the compiler loads at its start, laid out for the JVM, which then spends a third less on a small compilation.
compiler_archive() {
  local archive=$cache/kotlinc.jsa work
  [ "$archive" -nt "$cache/classpaths/kotlinc.cp" ] && return
  work=$(mktemp -d)
  echo 'fun twice(numbers: List<Int>): List<Int> = numbers.map { 2 * it }' >"$work/twice.kt"
  java -XX:+UseSerialGC "-XX:ArchiveClassesAtExit=$archive" '-Xlog:disable' -cp "$(cat "$cache/classpaths/kotlinc.cp")" \
    org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -no-stdlib -no-reflect -cp "$(cat "$cache/classpaths/core.cp")" -d "$work" "$work/twice.kt"
  local status=$?
  rm -rf "$work"
  return $status
}

# npm_package NAME VERSION FOLDER: its files in the cache.
npm_package() {
  local name=$1 version=$2 folder=$cache/$3 work
  [ "$(cat "$folder/.version" 2>/dev/null)" = "$version" ] && return
  work=$(mktemp -d)
  (cd "$work" && npm pack "$name@$version" --silent >/dev/null) && rm -rf "$folder" && mkdir -p "$folder" &&
    tar xzf "$work"/*.tgz -C "$folder" --strip-components=1 && echo "$version" >"$folder/.version"
  local status=$?
  rm -rf "$work"
  return $status
}

step 'Debian packages' debian_packages
step 'class paths' class_paths
step 'archive of the compiler' compiler_archive
# Since which API level each member of the Android API is public.
step 'API levels' npm_package @nativescript/types-android 9.1.1 types-android
# ExecuTorch's Java classes, to compile and test against: the AAR of PyTorch is not on Maven Central.
step 'ExecuTorch classes' npm_package react-native-executorch 0.9.3 react-native-executorch
exit $failed
