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
  for package in cmake ninja-build g++; do command -v "${package%-build}" >/dev/null || wanted+=("$package"); done
  [ ${#wanted[@]} -eq 0 ] || tools/debian.sh "${wanted[@]}"
}

class_paths() {
  "$python" tools/android/classpaths.py sdk/android/gradle/libs.versions.toml tools/android/gates.toml "$cache/classpaths"
}

step 'Debian packages' debian_packages
step 'class paths' class_paths
exit $failed
