#!/usr/bin/env bash
# Type-checks ios_demo's app and its tests, in the Swift chroot, against stub modules.
#
# Usage: tools/swift.sh tools/typecheck-ios-demo.sh BUILD_FOLDER MODULES, where MODULES is the folder that typecheck-apple.sh has filled.
set -euo pipefail
build=$1 modules=$2
rm -rf "$build"
mkdir -p "$build/ui"
common=(-wmo -swift-version 6 -warnings-as-errors -I "$build" -I "$modules/stubs" -I "$modules/debug" -I sdk/cpp/include)

# In the order in which they import each other.
for module in Accessibility CoreGraphics ImageIO SwiftUI Charts PhotosUI; do
  swiftc -emit-module "${common[@]}" -parse-as-library -module-name "$module" -o "$build/$module.swiftmodule" \
    "tests/apple/stubs/ios_demo/$module.swift"
done
emit() {
  local module=$1
  shift
  swiftc -emit-module "${common[@]}" -parse-as-library -enable-testing -module-name "$module" -o "$build/$module.swiftmodule" "$@"
}
emit DemoCore ios_demo/DemoCore/Sources/DemoCore/*.swift
app=(ios_demo/App/*.swift ios_demo/App/*/*.swift)
swiftc -typecheck "${common[@]}" -parse-as-library -module-name FashionDemo "${app[@]}"
