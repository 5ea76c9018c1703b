#!/usr/bin/env bash
# Type-checks ios_demo's app and its tests, in the Swift chroot, against stub modules.
#
# Usage: tools/swift.sh tools/typecheck-ios-demo.sh BUILD_FOLDER MODULES, where MODULES is the folder that typecheck-apple.sh has filled.
set -euo pipefail
build=$1 modules=$2
rm -rf "$build/ui"
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
emit FashionDemo -DDEBUG "${app[@]}"
swiftc -typecheck "${common[@]}" -parse-as-library -module-name FashionDemoTests ios_demo/AppTests/*.swift
for module in XCTest StoreKitTest; do
  swiftc -emit-module "${common[@]}" -parse-as-library -module-name "$module" -o "$build/ui/$module.swiftmodule" \
    "tests/apple/stubs/ios_demo/tests/$module.swift"
done
swiftc -typecheck -I "$build/ui" "${common[@]}" -parse-as-library -module-name FashionDemoUITests ios_demo/UITests/*.swift
echo "app, unit tests and UI tests pass"

# A view that binds to what the model does not have does not pass: the sources are looked at.
sed 's/comparison\.accuracies/comparison.acuracies/' ios_demo/App/Views/ComparisonView.swift >"$build/Wrong.swift"
if swiftc -typecheck "${common[@]}" -parse-as-library -module-name FashionDemo "${app[@]/*ComparisonView.swift/$build/Wrong.swift}" 2>"$build/wrong.log"; then
  echo "a misspelled property passes" >&2
  exit 1
fi
grep -q "has no dynamic member 'acuracies'\|has no member 'acuracies'" "$build/wrong.log"

# Every sample of the documentation (tools/swift_samples.py has written them). They are parts of apps: unused values are no fault.
samples=$build/samples
check_samples() { swiftc -typecheck -wmo -swift-version 6 -I "$build" -I "$modules/stubs" -I "$modules/debug" -I sdk/cpp/include -module-name Samples "$1"; }
check_samples "$samples/Samples.swift" 2>"$build/samples.log" || { grep -A3 "error:" "$build/samples.log"; exit 1; }
swiftc -typecheck -I /usr/libexec/swift/lib/swift/pm/ManifestAPI -package-description-version 6.0 "$samples/manifest/Package.swift"
echo "all samples pass"
sed 's/locker\.renewIfDue/locker.renewIfDew/' "$samples/Samples.swift" >"$build/WrongSamples.swift"
if check_samples "$build/WrongSamples.swift" 2>"$build/wrong.log"; then
  echo "a misspelled sample passes" >&2
  exit 1
fi
grep -q "has no member 'renewIfDew'" "$build/wrong.log"
