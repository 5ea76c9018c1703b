#!/usr/bin/env bash
# Runs every test and gate, and says at the end what passed, failed and was skipped.
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A gate that prints "SKIPPED <gate>: <reason>" counts as skipped; the language gates fail by themselves when skipped in CI.
gate() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  if "$@" 2>&1 | tee "$log"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED $name"
  fi
  skipped=$((skipped + $(grep -c '^SKIPPED ' "$log")))
  echo "== $name: $((SECONDS - start)) s"
}

gate 'ruff check' .venv/bin/ruff check .
gate 'ruff format' .venv/bin/ruff format --check .
gate 'mypy' .venv/bin/mypy
gate 'workflows' tools/check-workflows.sh
gate 'servers for the tests' tools/debian.sh postgresql softhsm2 chromium nginx caddy haproxy systemd
gate 'python tests' .venv/bin/python -m pytest -n auto --dist loadfile --durations=20 --durations-min=20
gate 'pythons' tools/test-pythons.sh
gate 'C++ set-up' tools/setup-cpp.sh
gate 'C++' tools/test-cpp.sh
gate 'Android set-up' tools/setup-android.sh
gate 'Android' tools/test-android.sh
gate 'Apple set-up' tools/setup-apple.sh
gate 'Apple' tools/test-apple.sh

echo "gates: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
