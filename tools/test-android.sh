#!/bin/bash
# Builds and runs every gate of the Android library without Gradle and says at the end what passed, was skipped and failed.
#
# Usage: tools/test-android.sh [GATE..], by default all. A gate that cannot run prints "SKIPPED <gate>: <reason>"; with
# CI=true that fails. tools/setup-android.sh installs what the gates need. UPDATE_ABI=1 writes the dumps of the public API,
# UPDATE_GOLDENS=1 the pictures of the demo's screens.
set -uo pipefail
cd "$(dirname "$0")/.."
source tools/gates.sh
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
sdk=$root/sdk/android
cache=$root/.cache/android
build=$root/.build/android
logs=$build/logs
all_gates=(core core-tests android phone-tests native android-tests asan executorch end-to-end soak link abi android-api ktlint detekt catalog)
types=$cache/types-android/lib/android/android-platform-21-37-merged.d.ts
executorch_jar=$cache/react-native-executorch/android/libs/classes.jar
min_sdk=26

source tools/android/demo-gates.sh
all_gates+=("${demo_gates[@]}" apk)

class_path() { cat "$cache/classpaths/$1.cp"; }

# Why a gate cannot run; nothing when it can.
obstacle() {
  command -v java >/dev/null || echo "no java"
  [ -e "$cache/classpaths/.key" ] || echo "no class paths in ${cache#"$root"/}"
  case $1 in
    demo-*) demo_obstacle "$1" ;;
    core-tests | android) [ -d "$build/core" ] || echo "core was not compiled" ;;
    phone-tests) [ -d "$build/android" ] || echo "android was not compiled" ;;
    native) command -v cmake >/dev/null && command -v ninja >/dev/null || echo "no cmake or ninja" ;;
    asan)
      [ -d "$build/android-test" ] || echo "the tests of android were not compiled"
      [ -e "$(g++ -print-file-name=libasan.so)" ] || echo "no AddressSanitizer"
      ;;
    android-tests)
      [ -d "$build/android" ] && [ -d "$build/core-test" ] || echo "android or the tests of core were not compiled"
      [ -e "$build/native/libcorelocker.so" ] || echo "the native library was not built"
      ;;
    executorch)
      [ -d "$build/android" ] || echo "android was not compiled"
      [ -e "$executorch_jar" ] || echo "no ${executorch_jar#"$root"/}"
      ;;
    end-to-end)
      [ -d "$build/executorch" ] && [ -d "$build/core-test" ] || echo "executorch or the tests of core were not compiled"
      [ -e "$build/native/libcorelocker.so" ] || echo "the native library was not built"
      executorch_package >/dev/null || echo "no executorch in the Python environment"
      ;;
    soak)
      [ -d "$build/executorch-test" ] || echo "the tests of executorch were not compiled"
      [ -e "$(g++ -print-file-name=libasan.so)" ] || echo "no AddressSanitizer"
      ;;
    link)
      [ -e /usr/lib/llvm-19/bin/ld.lld ] && [ -e "$root/.cache/executorch-mobile/include" ] && [ -e "$root/.cache/zig-headers/ziglang" ] ||
        echo "no LLVM 19, ExecuTorch for Android or C headers (tools/setup-cpp.sh)"
      ;;
    apk)
      command -v aapt2 >/dev/null && command -v apksigner >/dev/null && [ -e /usr/share/android-framework-res/framework-res.apk ] ||
        echo "no aapt2, apksigner or framework"
      [ -e "$cache/classpaths/dx.cp" ] || echo "no class path of dx"
      [ -d "$build/executorch" ] && [ -e "$build/link-x86_64/libcorelocker_executorch.so" ] || echo "executorch was not compiled, or not linked"
      [ -d "$build/demo-emulator" ] && [ -e "$build/demo/development/corelocker.json" ] || echo "the demo was not compiled, or its assets not made"
      ;;
    abi) [ -d "$build/executorch" ] || echo "executorch was not compiled" ;;
    android-api)
      [ -d "$build/executorch" ] || echo "executorch was not compiled"
      [ -e "$types" ] || echo "no ${types#"$root"/}"
      ;;
  esac
}

# kotlin MODULE SOURCE.. -- OPTION..: compiles sources into $build/MODULE. Without invokedynamic, as for old Android versions.
kotlin() {
  local module=$1 sources=()
  shift
  while [ "$1" != -- ]; do sources+=("$1") && shift; done
  shift
  rm -rf "${build:?}/$module"
  java -Xmx1500m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "-XX:SharedArchiveFile=$cache/kotlinc.jsa" '-Xlog:disable' \
    -cp "$(class_path kotlinc)" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -no-stdlib \
    -no-reflect -jvm-target 17 -Xlambdas=class -Xsam-conversions=class -Xstring-concat=inline -Werror -module-name "$module" -d "$build/$module" "${sources[@]}" "$@"
}

# junit MODULE CLASSPATH OPTION..: runs the tests in $build/MODULE whose class names match the pattern TEST_CLASSES.
junit() {
  local module=$1 classes=$2
  shift 2
  java "$@" -cp "$build/$module:$classes" org.junit.platform.console.ConsoleLauncher execute --scan-class-path "$build/$module" \
    --include-classname "${TEST_CLASSES:-.*Test}" --details=summary --disable-banner --disable-ansi-colors --fail-if-no-tests
}

gate_core() { kotlin core "$sdk/core/src/main/kotlin" -- -Xexplicit-api=strict -cp "$(class_path core)"; }

gate_core-tests() {
  local classes=$build/core:$(class_path core-test)
  kotlin core-test "$sdk/core/src/test/kotlin" -- "-Xfriend-paths=$build/core" -cp "$classes" &&
    junit core-test "$classes" "-Dcorelocker.vectors=$root/tests/vectors"
}

# The debug source set, which holds the development key; the release one is compiled as well.
gate_android() {
  local source=$sdk/android/src classes=$build/core:$(class_path core):$(class_path android):$(class_path android-all)
  kotlin android-release "$source/main/kotlin" "$source/release/kotlin" -- -Xexplicit-api=strict -cp "$classes" &&
    ! find "$build/android-release" -name 'DevelopmentKeys.class' | grep . &&
    kotlin android "$source/main/kotlin" "$source/debug/kotlin" -- -Xexplicit-api=strict -cp "$classes"
}

# Tests for a phone or an emulator: they compile here, and cannot run.
gate_phone-tests() {
  local classes=$build/android:$build/core:$(class_path core-test):$(class_path gradle-only):$(class_path demo-app):$(class_path android-all)
  kotlin phone-tests "$sdk/android/src/androidTest/kotlin" -- "-Xfriend-paths=$build/android" -cp "$classes"
}

# native FOLDER MODULE OPTION..: builds the module's native library for the host.
native() {
  local folder=$1 module=$2
  shift 2
  JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")") cmake -S "$sdk/$module/src/main/cpp" -B "$build/$folder" \
    -G Ninja -DCMAKE_BUILD_TYPE=Release "$@" && cmake --build "$build/$folder"
}

gate_native() { native native android; }

# On the host: JNI and the C core, and the Keystore code over a fake provider. Android's classes come last: the JDK's count.
gate_android-tests() {
  local classes=$build/android:$build/core-test:$build/core:$(class_path core-test) jar=$build/android-classes.jar
  [ -e "$jar" ] || "$python" tools/android/android_api.py jar "$(class_path android-all)" "$jar" android/ libcore/ \
    com/android/internal/util/ dalvik/system/ || return
  kotlin android-test "$root/tests/android/device" -- "-Xfriend-paths=$build/core,$build/android,$build/core-test" \
    -cp "$classes:$(class_path android-all)" &&
    PYTHONPATH=sdk/python junit android-test "$classes:$jar" -Xcheck:jni "-Dcorelocker.python=$python" \
      "-Dcorelocker.attest=$root/tests/android/attest.py" --add-opens java.base/java.io=ALL-UNNAMED "-Djava.library.path=$build/native" \
      "-Dcorelocker.vectors=$root/tests/vectors" | tee "$build/android-tests.out" && ! grep -EA 3 '^WARNING(:| in native)' "$build/android-tests.out"
}

sanitize='-DCMAKE_CXX_FLAGS=-g -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all'
sanitizers=$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so)
asan_options=handle_segv=0:detect_leaks=0:allocator_may_return_null=1

# The same restores, 10,000 of them in a row among them, with AddressSanitizer and UndefinedBehaviorSanitizer in the native code.
# The JVM itself handles SIGSEGV, and leaves memory to the kernel when it ends.
gate_asan() {
  local classes=$build/android:$build/core-test:$build/core:$(class_path core-test)
  native native-asan android "$sanitize" && LD_PRELOAD=$sanitizers ASAN_OPTIONS=$asan_options TEST_CLASSES='.*RestoreTest' \
      junit android-test "$classes" --add-opens java.base/java.io=ALL-UNNAMED "-Djava.library.path=$build/native-asan" \
      "-Dcorelocker.vectors=$root/tests/vectors"
}

gate_executorch() {
  local classes=$build/android:$build/core:$(class_path core):$(class_path android-all)
  kotlin executorch "$sdk/executorch/src/main/kotlin" -- -Xexplicit-api=strict -cp "$executorch_jar:$(class_path executorch):$classes"
}

executorch_package() {
  "$python" -c 'import importlib.util as u; print(*u.find_spec("executorch").submodule_search_locations)'
}

# native_executorch FOLDER CORE OPTION..: builds ExecuTorch's native library of ours over the core in $build/CORE.
native_executorch() {
  local folder=$1 core=$2
  shift 2
  native "$folder" executorch "-Dexecutorch_DIR=$(executorch_package)/share/cmake" "-DCMAKE_LIBRARY_PATH=$build/$core" -DCORELOCKER_PROFILING=ON "$@"
}

# A purchase, the real unlock service, JNI, the C core and ExecuTorch on the host.
gate_end-to-end() {
  local libraries=$build/android:$build/core-test:$build/core:$(class_path core-test):$executorch_jar:$(class_path executorch)
  local classes=$build/executorch:$libraries out=$build/end-to-end.out
  native_executorch native-executorch native && rm -rf "$build/locks" "$build/world" &&
    PYTHONPATH=sdk/python "$python" tests/android/locks.py "$build/locks" "$cache/model" >"$build/locks.json" || return
  kotlin executorch-test "$root/tests/android/executorch" -- \
    "-Xfriend-paths=$build/core,$build/android,$build/core-test,$build/executorch" -cp "$classes:$(class_path android-all)" &&
    PYTHONPATH=sdk/python TEST_CLASSES='(?!.*Soak).*Test' junit executorch-test "$classes" -Xcheck:jni "-Dcorelocker.python=$python" \
      "-Djava.library.path=$build/native:$build/native-executorch" "-Dcorelocker.world=$root/tests/android/world.py" \
      "-Dcorelocker.world.folder=$build/world" "-Djava.util.logging.config.file=$root/tests/android/executorch/logging.properties" \
      "-Dcorelocker.locks=$build/locks.json" "-Dcorelocker.model=$cache/model" >"$out" 2>&1
  local status=$?
  grep -vE '^(FINE|[A-Z][a-z]{2} [0-9]+, )' "$out"
  # What the app, the libraries in it and the service have logged holds no secret.
  [ $status -eq 0 ] && ! grep -EA 3 '^WARNING(:| in native)' "$out" && "$python" tests/android/check_logs.py "$build/world" "$out"
}

# Ten thousand models with AddressSanitizer, UndefinedBehaviorSanitizer and the checks of JNI. All memory but the heap's is native.
gate_soak() {
  local classes=$build/executorch:$build/android:$build/core-test:$build/core:$(class_path core-test):$executorch_jar:$(class_path executorch)
  local out=$build/soak.out
  native native-asan android "$sanitize" && native_executorch native-executorch-asan native-asan "$sanitize" &&
    LD_PRELOAD=$sanitizers ASAN_OPTIONS=$asan_options:quarantine_size_mb=4 TEST_CLASSES='.*SoakTest' \
      junit executorch-test "$classes" -Xcheck:jni -Xms128m -Xmx128m -XX:+AlwaysPreTouch "-Dcorelocker.locks=$build/locks.json" \
      "-Djava.library.path=$build/native-asan:$build/native-executorch-asan" | tee "$out" && ! grep -EA 3 '^WARNING(:| in native)' "$out"
}

# The native libraries for both kinds of phones, without the NDK.
gate_link() {
  tools/link-mobile-cpp.sh android-arm64-jni "$build/link-arm64-v8a" && tools/link-mobile-cpp.sh android-x86_64-jni "$build/link-x86_64"
}

# Packages of the demo app, with what the gates of the demo have compiled and made.
gate_apk() {
  local flavor android assets
  for flavor in play emulator; do
    if [ "$flavor" = play ]; then
      android=$build/android-release assets=$build/demo/model:$build/demo/images
    else
      android=$build/android assets=$build/demo/model:$build/demo/images:$build/demo/development
    fi
    CLASS_PATH=$(class_path apk):$executorch_jar DX=$(class_path dx) PYTHON=$python LINKED=$build ASSETS=$assets DEX_CACHE=$cache/dex \
      tools/apk-android.sh "$flavor" "$build/apk-$flavor" "$build/core" "$android" "$build/executorch" "$build/demo-ui" "$build/demo-$flavor" || return
  done
}

# Calls of the platform that are hidden or newer than the oldest Android; the second check must find what API 26 brought.
gate_android-api() {
  local check=("$python" tools/android/android_api.py)
  "${check[@]}" check "$types" $min_sdk "$build/core" "$build/android" "$build/executorch" &&
    "${check[@]}" constants "$types" $min_sdk "$sdk/android/src/main" android_demo/app/src &&
    ! "${check[@]}" check "$types" 25 "$build/android" >/dev/null
}

gate_abi() {
  local module update=()
  [ -z "${UPDATE_ABI:-}" ] || update=(--update)
  for module in core android executorch; do
    mkdir -p "$sdk/$module/api"
    local classes=$build/$module
    [ "$module" != android ] || classes=$build/android-release # what is published
    java -cp "$(class_path abi-tools)" tools/android/Abi.java "$classes" "$sdk/$module/api/$module.api" "${update[@]}" || return
  done
}

gate_ktlint() {
  java --add-opens java.base/java.lang=ALL-UNNAMED -cp "$(class_path ktlint)" com.pinterest.ktlint.Main --relative \
    --editorconfig="$sdk/.editorconfig" 'sdk/android/**/*.kt' 'sdk/android/**/*.kts' 'tests/android/**/*.kt' \
    'android_demo/**/*.kt' 'android_demo/**/*.kts'
}

gate_detekt() {
  (cd "$sdk" && java -cp "$(class_path detekt)" io.gitlab.arturbosch.detekt.cli.Main --build-upon-default-config \
    --config detekt.yml --input .,../../android_demo --includes '**/src/main/**,**/src/debug/**,**/src/play/**,**/src/emulator/**') &&
    "$python" tools/android/kdoc.py "$sdk"/*/src/{main,debug}
}

gate_catalog() { "$python" tools/android/catalog.py "$sdk/gradle/libs.versions.toml" tools/android/gates.toml "$sdk" android_demo; }

run_gates Android tools/setup-android.sh "${@:-${all_gates[@]}}"
