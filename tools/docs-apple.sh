#!/usr/bin/env bash
# Builds the documentation of every target, in the Swift chroot; a link to a symbol that is not there fails.
#
# Usage: tools/swift.sh tools/docs-apple.sh GRAPHS BUILD_FOLDER. GRAPHS holds the symbol graphs that tools/typecheck-apple.sh writes. The
# steps of the tutorials are compiled there too.
set -euo pipefail
graphs=$1 build=$2
rm -rf "$build"

# convert MODULE CATALOG: from the graphs in $build/MODULE
convert() {
  docc convert "$2" --additional-symbol-graph-dir "$build/$1" --output-path "$build/$1.doccarchive" --warnings-as-errors \
    --fallback-display-name "$1" --fallback-bundle-identifier "org.corelocker.$1"
  echo "$1: all links resolve"
}

mkdir -p "$build/CCoreLocker"
clang -extract-api -x c-header "$PWD/sdk/cpp/include/corelocker/corelocker.h" --product-name=CCoreLocker \
  -o "$build/CCoreLocker/CCoreLocker.symbols.json"
convert CCoreLocker sdk/cpp/CCoreLocker.docc

for catalog in sdk/apple/*/*.docc sdk/apple/ExecuTorch/*/*.docc; do
  module=$(basename "$catalog" .docc)
  mkdir -p "$build/$module"
  # What a module adds to another one's types has a graph of its own.
  for graph in "$graphs/$module".symbols.json "$graphs/$module"@*.symbols.json; do
    [ ! -e "$graph" ] || cp "$graph" "$build/$module"
  done
  convert "$module" "$catalog"
done
