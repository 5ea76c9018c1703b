#!/usr/bin/env bash
# Installs the wheel without extras under each Python that the project declares, and runs the commands that only touch files.
#
# Interpreters are looked for on PATH and among pyenv's. A declared one that is missing prints "SKIPPED python-3.x: <reason>".
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
build=$PWD/.build/pythons
declared=(3.11 3.12 3.13)
passed=0 failed=0 skipped=0

interpreter() {
  local version=$1 found
  found=$(command -v "python$version" 2>/dev/null) && "$found" -c '' 2>/dev/null && { echo "$found"; return; }
  found=$(compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version.*/bin/python$version" | sort -V | tail -n 1)
  echo "$found"
}

# Lock, inspect, verify and restore a checkpoint as a user would; torch is not there.
run_commands() {
  local environment=$1 work=$2
  local corelocker=$environment/bin/corelocker
  export CORELOCKER_PASSPHRASE=of-the-gate
  unset PYTHONPATH
  cp tools/demo_model/data/fashion_mobilenet.safetensors "$work/model.safetensors" &&
    "$corelocker" --version && "$corelocker" keystore init "$work/keys.json" &&
    "$corelocker" inspect "$work/model.safetensors" &&
    "$corelocker" lock "$work/model.safetensors" --out "$work/dist" --model-id gate --model-version 1 --keystore "$work/keys.json" &&
    "$corelocker" verify "$work/dist/model.safetensors" --bundle "$work/dist/gate.clkey" --keystore "$work/keys.json" --full &&
    "$corelocker" restore "$work/dist/model.safetensors" --bundle "$work/dist/gate.clkey" --keystore "$work/keys.json" \
      --out "$work/restored.safetensors" &&
    ! cmp -s "$work/model.safetensors" "$work/dist/model.safetensors" &&
    cmp "$work/model.safetensors" "$work/restored.safetensors"
}

gate() {
  local version=$1 base environment=$build/$1 log=$build/$1.log
  base=$(interpreter "$version")
  if [ -z "$base" ]; then
    echo "SKIPPED python-$version: no python$version on PATH or in pyenv"
    skipped=$((skipped + 1))
    return
  fi
  rm -rf "$environment" "$build/work-$version"
  mkdir -p "$build/work-$version"
  if { "$base" -m venv "$environment" && "$environment/bin/python" -m pip install -q --disable-pip-version-check "$wheel" &&
    run_commands "$environment" "$build/work-$version"; } >"$log" 2>&1; then
    echo "PASSED python-$version"
    passed=$((passed + 1))
  else
    echo "FAILED python-$version, the end of ${log#"$PWD"/}:"
    tail -n 20 "$log"
    failed=$((failed + 1))
  fi
}

rm -rf "$build/wheel"
mkdir -p "$build"
"$python" -m pip wheel -q --disable-pip-version-check --no-deps --wheel-dir "$build/wheel" . || exit 1
wheel=$(echo "$build"/wheel/corelocker-*.whl)
for version in "${declared[@]}"; do gate "$version"; done
echo "Pythons: $passed passed, $skipped skipped, $failed failed"
[ "$failed" -eq 0 ] && { [ "${CI:-}" != true ] || [ "$skipped" -eq 0 ]; }
