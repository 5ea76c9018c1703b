#!/usr/bin/env bash
# Type-checks what imports Apple's frameworks, in the Swift chroot, against the stub modules of tests/apple/stubs.
#
# Usage: tools/swift.sh tools/typecheck-apple.sh BUILD_FOLDER. Swift 6 language mode, warnings are errors; with and without DEBUG.
set -euo pipefail
build=$1
rm -rf "$build"
mkdir -p "$build/stubs"
plugins=/usr/libexec/swift/lib/swift/host/plugins
common=(-wmo -swift-version 6 -warnings-as-errors -parse-as-library -I "$build/stubs")

# In the order in which they import each other.
for module in Darwin ObjectiveC Security CryptoKit DeviceCheck StoreKit CoreML ExecuTorch CoreLockerRestoredModule; do
  swiftc -emit-module "${common[@]}" -module-name "$module" -o "$build/stubs/$module.swiftmodule" "tests/apple/stubs/$module.swift"
done

# To make a module finds what -typecheck does, and besides what is sent to another actor and used on.
check() {
  local folder=$1 module=$2 sources=$3
  shift 3
  swiftc -emit-module "${common[@]}" -package-name corelocker -I "$folder" -I sdk/cpp/include -module-name "$module" "$@" \
    -emit-symbol-graph -emit-symbol-graph-dir "$folder" -o "$folder/$module.swiftmodule" "$sources"/*.swift
}

for configuration in debug release; do
  folder=$build/$configuration
  mkdir -p "$folder"
  debug=()
  [ "$configuration" = debug ] && debug=(-DDEBUG -enable-testing)
  for module in CoreLocker CoreLockerDevice CoreLockerCoreML; do check "$folder" "$module" "sdk/apple/$module" "${debug[@]}"; done
  # In a package of its own, which sees what is public.
  check "$folder" CoreLockerExecuTorch sdk/apple/ExecuTorch/CoreLockerExecuTorch "${debug[@]}" -package-name corelockerexecutorch
  echo "$configuration: all modules pass"
done

# The tests of what imports Apple's frameworks, with the tests that only run there.
for module in CoreLockerDevice CoreLockerCoreML; do
  tests=(tests/apple/${module}Tests/*.swift tests/apple/Shared/*.swift)
  swiftc -typecheck "${common[@]}" -DDEBUG -package-name corelocker -I "$build/debug" -I sdk/cpp/include -plugin-path "$plugins" \
    -module-name "${module}Tests" "${tests[@]}"
  echo "${module}Tests: pass"
done
swiftc -typecheck "${common[@]}" -DDEBUG -I "$build/debug" -I sdk/cpp/include -plugin-path "$plugins" \
  -module-name CoreLockerExecuTorchTests sdk/apple/ExecuTorch/CoreLockerExecuTorchTests/*.swift
echo "CoreLockerExecuTorchTests: pass"

# The README's lines and the tutorial's pass, and a call that is wrong does not: the stubs are looked at.
swiftc -typecheck "${common[@]}" -I "$build/release" -I sdk/cpp/include -module-name Uses tests/apple/uses/*.swift
for step in sdk/apple/*/*.docc/Resources/*.swift; do
  swiftc -typecheck "${common[@]}" -I "$build/release" -I sdk/cpp/include -module-name Step "$step"
done
sed 's/shared.isSupported/shared.isSupportd/' sdk/apple/CoreLockerDevice/DeviceCheckAppAttest.swift >"$build/Wrong.swift"
if swiftc -typecheck "${common[@]}" -package-name corelocker -I "$build/release" -I sdk/cpp/include -module-name Wrong "$build/Wrong.swift" \
  2>"$build/wrong.log"; then
  echo "a misspelled call passes" >&2
  exit 1
fi
grep -q "has no member 'isSupportd'" "$build/wrong.log"

# The second package's manifest: the products that it wants are there. A package without content stands for ExecuTorch's.
second=$build/second
mkdir -p "$second/executorch/Sources/executorch"
echo 'public let executorch = 0' >"$second/executorch/Sources/executorch/executorch.swift"
cat >"$second/executorch/Package.swift" <<'MANIFEST'
// swift-tools-version: 6.0
import PackageDescription
let package = Package(
    name: "executorch",
    products: [
        .library(name: "executorch", targets: ["executorch"]), .library(name: "kernels_optimized", targets: ["executorch"]),
    ],
    targets: [.target(name: "executorch")])
MANIFEST
cp -r sdk/apple/ExecuTorch "$second/CoreLockerExecuTorch"
sed -i -e "s|path: \"../../..\"|path: \"$PWD\"|" -e 's|url: "https://github.com/pytorch/executorch.git", branch: executorch|path: "../executorch"|' \
  "$second/CoreLockerExecuTorch/Package.swift"
swift package --package-path "$second/CoreLockerExecuTorch" --scratch-path "$second/build" show-dependencies
