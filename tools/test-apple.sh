#!/usr/bin/env bash
# Builds and tests the Swift package on Linux, and says at the end what passed, was skipped and failed.
#
# Usage: tools/test-apple.sh [GATE..], by default all. A gate that cannot run prints "SKIPPED <gate>: <reason>"; with CI=true that fails.
# tools/setup-apple.sh installs Swift in a chroot. ACCEPT=1 writes the public API anew in place of comparing it.
set -uo pipefail
cd "$(dirname "$0")/.."
source tools/gates.sh
build=.build/apple
logs=$build/logs
all_gates=(format test asan tsan demo-core end-to-end typecheck docs stubs demo-app demo-project demo-resources)
# Mostly one thread of Python or of a compiler, while packages are built. SwiftPM itself lets nobody into a build folder in use.
beside=(end-to-end typecheck docs stubs demo-app demo-project demo-resources)

types=.cache/types-ios
swift_root=${CORELOCKER_SWIFT_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/corelocker/swift-trixie}

# Why a gate cannot run; nothing when it can.
obstacle() {
  case $1 in
    stubs) [ -d "$types" ] || echo "no list of Apple's API" ;;
    docs) [ -d "$build/typecheck/debug" ] || echo "nothing was type-checked" ;;
    tsan)
      compgen -G "$swift_root/usr/libexec/swift/lib/clang/*/lib/linux/libclang_rt.tsan-*.a" >/dev/null || echo "no ThreadSanitizer in Swift"
      ;;
    end-to-end) command -v cmake >/dev/null || echo "no cmake" ;;
  esac
  [ -e "$swift_root/.set-up" ] || echo "no Swift"
}

swift_test() { tools/swift.sh swift test --scratch-path "$@"; }

# fresh FOLDER: removes a build folder that was filled from other sources of the library. A package in a folder of its own is not always
# built anew after a change of what it depends on, and then crashes.
fresh() {
  local now
  now=$(find Package.swift sdk/apple/CoreLocker sdk/cpp -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
  [ "$(cat "$1/.sources" 2>/dev/null)" = "$now" ] && return
  rm -rf "$1"
  mkdir -p "$1"
  echo "$now" >"$1/.sources"
}

gate_format() { tools/swift.sh swift format lint --strict --recursive Package.swift sdk/apple tests/apple ios_demo; }

# Swift Testing's summary is its last line; a run without tests is a failure.
passed_tests() { awk '{ print; fflush() } /Test run with [1-9][0-9]* tests passed/ { passed = 1 } END { exit !passed }'; }

# What many restores leave behind is measured in a process of its own: other tests take memory too.
gate_test() {
  swift_test "$build/debug" -Xswiftc -warnings-as-errors --skip LifetimeTests 2>&1 | passed_tests &&
    swift_test "$build/debug" -Xswiftc -warnings-as-errors --filter LifetimeTests 2>&1 | passed_tests
}

# What imports Apple's frameworks, against stubs of them, and everybody's public API.
gate_typecheck() {
  local module graphs
  tools/swift.sh tools/typecheck-apple.sh "$build/typecheck" || return
  # With what debug builds alone have. CoreLocker is not built again with other options in the folder of the gate test: that made each the other anew.
  .venv/bin/python tools/swift_api.py "$build/typecheck/debug/CoreLocker.symbols.json" sdk/apple/api/CoreLocker.api ${ACCEPT:+--accept} || return
  for module in CoreLockerDevice CoreLockerCoreML CoreLockerExecuTorch; do
    # What a module adds to another one's types has a graph of its own.
    graphs=("$build/typecheck/release/$module".symbols.json "$build/typecheck/release/$module"@CoreLocker*.symbols.json)
    [ -e "${graphs[1]}" ] || unset 'graphs[1]'
    .venv/bin/python tools/swift_api.py "${graphs[@]}" "sdk/apple/api/$module.api" ${ACCEPT:+--accept} || return
  done
}

# The documentation of all targets, from the graphs of the gate before.
gate_docs() {
  local module graphs
  tools/swift.sh tools/docs-apple.sh "$build/typecheck/debug" "$build/docs" || return
  for module in CoreLocker CoreLockerDevice CoreLockerCoreML CoreLockerExecuTorch; do
    graphs=("$build/typecheck/debug/$module".symbols.json "$build/typecheck/debug/$module"@CoreLocker*.symbols.json)
    [ -e "${graphs[1]}" ] || unset 'graphs[1]'
    .venv/bin/python tools/swift_docs.py "$module" "${graphs[@]}" || return
  done
}

# The stubs themselves, against lists of the real API.
gate_stubs() { .venv/bin/python -m tools.check_apple_stubs "$types"; }

# The Swift client, the real unlock service and the C core, on this machine.
gate_end-to-end() { PYTHONPATH=sdk/python:tests/python:. .venv/bin/python tests/apple/end_to_end.py "$build"; }

# Foundation leaks a few bytes of its own, so leaks are looked for in the C++ gates. The sanitizer keeps freed memory, so growth is not.
gate_asan() {
  tools/swift.sh env ASAN_OPTIONS=detect_leaks=0 swift test --scratch-path "$build/asan" --sanitize=address --skip LifetimeTests 2>&1 |
    passed_tests
}

# Of Swift and the C core. A race fails the process. Fuzzing and property tests have one thread.
gate_tsan() {
  swift_test "$build/tsan" --sanitize=thread --skip LifetimeTests --skip FuzzTests --skip PropertyTests 2>&1 | passed_tests
}

# The model layer of ios_demo. The toolchain's libswiftObservation lacks a symbol, which only a crash would call.
gate_demo-core() {
  swift_test "$build/demo-core" --package-path ios_demo/DemoCore -Xswiftc -warnings-as-errors -Xlinker --allow-shlib-undefined 2>&1 |
    passed_tests
}

# Its views and tests, and every sample of the documentation, against stubs, with what the gate typecheck has made.
gate_demo-app() {
  [ -e "$build/typecheck/debug/CoreLockerExecuTorch.swiftmodule" ] || tools/swift.sh tools/typecheck-apple.sh "$build/typecheck" || return
  rm -rf "$build/demo-app"
  .venv/bin/python tools/swift_samples.py "$build/demo-app/samples" && tools/swift.sh tools/typecheck-ios-demo.sh "$build/demo-app" "$build/typecheck"
}

# Its project, plists, store, strings and pictures.
gate_demo-project() { .venv/bin/python -m tools.check_apple_project; }

# Its build phase: the pipeline, and what the app does with what it writes.
gate_demo-resources() { PYTHONPATH=sdk/python:tests/python:. .venv/bin/python tests/apple/demo_resources.py "$build"; }

fresh "$build/demo-core"
run_gates Apple tools/setup-apple.sh "${@:-${all_gates[@]}}"
