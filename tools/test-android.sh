#!/bin/bash
# Builds and runs every gate of the Android library without Gradle and says at the end what passed, was skipped and failed.
#
# Usage: tools/test-android.sh [GATE..], by default all. A gate that cannot run prints "SKIPPED <gate>: <reason>"; with
# CI=true that fails. tools/setup-android.sh installs what the gates need. UPDATE_ABI=1 writes the dumps of the public API.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
sdk=$root/sdk/android
cache=$root/.cache/android
build=$root/.build/android
logs=$build/logs
all_gates=(core core-tests abi ktlint detekt)
passed=() skipped=() failed=()
mkdir -p "$logs"

class_path() { cat "$cache/classpaths/$1.cp"; }

# Why a gate cannot run; nothing when it can.
obstacle() {
  command -v java >/dev/null || echo "no java"
  [ -e "$cache/classpaths/.key" ] || echo "no class paths in ${cache#"$root"/}"
  case $1 in
    core-tests | abi) [ -d "$build/core" ] || echo "core was not compiled" ;;
  esac
}

# kotlin MODULE SOURCE.. -- OPTION..: compiles sources into $build/MODULE. Without invokedynamic, as for old Android versions.
kotlin() {
  local module=$1 sources=()
  shift
  while [ "$1" != -- ]; do sources+=("$1") && shift; done
  shift
  rm -rf "${build:?}/$module"
  java -Xmx1500m -XX:TieredStopAtLevel=1 -cp "$(class_path kotlinc)" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -no-stdlib \
    -no-reflect -jvm-target 17 -Werror -module-name "$module" -d "$build/$module" "${sources[@]}" "$@"
}

# junit MODULE CLASSPATH OPTION..: runs the tests in $build/MODULE.
junit() {
  local module=$1 classes=$2
  shift 2
  java "$@" -cp "$build/$module:$classes" org.junit.platform.console.ConsoleLauncher execute --scan-class-path "$build/$module" \
    --details=summary --disable-banner --disable-ansi-colors --fail-if-no-tests
}

gate_core() { kotlin core "$sdk/core/src/main/kotlin" -- -Xexplicit-api=strict -cp "$(class_path core)"; }

gate_core-tests() {
  local classes=$build/core:$(class_path core-test)
  kotlin core-test "$sdk/core/src/test/kotlin" -- "-Xfriend-paths=$build/core" -cp "$classes" &&
    junit core-test "$classes" "-Dcorelocker.vectors=$root/tests/vectors"
}

gate_abi() {
  local module update=()
  [ -z "${UPDATE_ABI:-}" ] || update=(--update)
  for module in core; do
    mkdir -p "$sdk/$module/api"
    java -cp "$(class_path abi-tools)" tools/android/Abi.java "$build/$module" "$sdk/$module/api/$module.api" "${update[@]}" || return
  done
}

gate_ktlint() {
  (cd "$sdk" && java --add-opens java.base/java.lang=ALL-UNNAMED -cp "$(class_path ktlint)" com.pinterest.ktlint.Main --relative \
    '**/*.kt' '**/*.kts')
}

gate_detekt() {
  (cd "$sdk" && java -cp "$(class_path detekt)" io.gitlab.arturbosch.detekt.cli.Main --build-upon-default-config \
    --config detekt.yml --input . --includes '**/src/main/**,**/src/debug/**')
}

run_gate() {
  local gate=$1 reason start=$SECONDS
  reason=$(obstacle "$gate" | head -n 1)
  if [ -n "$reason" ]; then
    echo "SKIPPED $gate: $reason; tools/setup-android.sh installs what is missing"
    skipped+=("$gate")
  elif "gate_$gate" >"$logs/$gate.log" 2>&1; then
    echo "PASSED $gate ($((SECONDS - start)) s)"
    passed+=("$gate")
  else
    echo "FAILED $gate ($((SECONDS - start)) s), the end of ${logs#"$root"/}/$gate.log:"
    tail -n 40 "$logs/$gate.log"
    failed+=("$gate")
  fi
}

for gate in "${@:-${all_gates[@]}}"; do run_gate "$gate"; done
echo "Android gates: ${#passed[@]} passed, ${#skipped[@]} skipped, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ] && { [ "${CI:-}" != true ] || [ ${#skipped[@]} -eq 0 ]; }
