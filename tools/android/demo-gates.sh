# The gates of android_demo, which tools/test-android.sh sources. UPDATE_GOLDENS=1 writes the golden pictures anew.
demo=$root/android_demo
demo_gates=(demo-ui demo-ui-tests demo-pictures demo-app demo-assets demo-end-to-end)
fonts=/usr/share/fonts/truetype/roboto/unhinted/RobotoTTF

# Why a gate of the demo cannot run; nothing when it can.
demo_obstacle() {
  case $1 in
    demo-ui) [ -d "$build/core" ] || echo "core was not compiled" ;;
    demo-ui-tests | demo-pictures) [ -d "$build/demo-ui" ] || echo "demo-ui was not compiled" ;;&
    demo-pictures) [ -d "$fonts" ] || echo "no Roboto in $fonts" ;;
    demo-app) [ -d "$build/demo-ui" ] && [ -d "$build/executorch" ] || echo "demo-ui or executorch was not compiled" ;;
    demo-assets) executorch_package >/dev/null || echo "no executorch in the Python environment" ;;
    demo-end-to-end)
      [ -d "$build/demo-ui" ] && [ -d "$build/executorch" ] || echo "demo-ui or executorch was not compiled"
      [ -e "$build/native/libcorelocker.so" ] && [ -d "$build/native-executorch" ] || echo "the native libraries were not built"
      [ -e "$build/demo/development/corelocker.json" ] || echo "the demo's assets were not made"
      ;;
  esac
}

# compose MODULE SOURCE.. -- OPTION..: as kotlin, with the compiler plugin of Compose.
compose() { kotlin "$@" "-Xplugin=$(class_path compose-compiler | tr : '\n' | grep compose-compiler)"; }

# desktop MODULE CLASSPATH OPTION..: runs tests that draw, without a display.
desktop() { junit "$1" "$2" -Djava.awt.headless=true -Duser.timezone=UTC -Duser.language=en "${@:3}"; }

assets() { PYTHONPATH=$root/sdk/python "$python" "$demo/model/assets.py" "$1" --out "$build/demo/$1" --state "$build/demo/state" "${@:2}"; }

# Screens and view models. They import nothing of Android, or they would not compile for the desktop.
gate_demo-ui() {
  compose demo-ui "$demo/ui/src/main/kotlin" -- -cp "$build/core:$(class_path demo-ui)" &&
    ! grep -rnE '^import (android|com\.android|dalvik)\.' "$demo/ui/src"
}

gate_demo-ui-tests() {
  local classes=$build/demo-ui:$build/core:$(class_path demo-ui-test) tests=$demo/ui/src
  compose demo-ui-test "$tests/sharedTest/kotlin" "$tests/test/kotlin" "$tests/androidTest/kotlin" -- -cp "$classes" &&
    desktop demo-ui-test "$classes"
}

gate_demo-pictures() {
  local classes=$build/demo-ui:$build/core:$(class_path demo-ui-test)
  assets images && compose demo-pictures "$root/tests/android/demo" -- -opt-in=androidx.compose.ui.ExperimentalComposeUiApi -cp "$classes" &&
    desktop demo-pictures "$classes" "-Ddemo.images=$build/demo/images" "-Ddemo.fonts=$fonts" \
      "-Ddemo.goldens=$root/tests/android/demo/goldens" "-Ddemo.pictures=$build/demo/pictures" \
      "-Ddemo.readme=$root/docs/images"
}

# Both flavors and their instrumented tests, against the classes of Android, AndroidX and Play Billing themselves.
gate_demo-app() {
  local flavor app=$demo/app/src
  local classes=$build/demo-ui:$build/core:$build/android:$build/executorch:$executorch_jar:$(class_path demo-ui)
  classes=$classes:$(class_path demo-app):$(class_path executorch):$(class_path core):$(class_path android):$(class_path android-all)
  for flavor in play emulator; do
    compose "demo-$flavor" "$app/main/kotlin" "$app/$flavor/kotlin" -- -cp "$classes" || return
  done
  "$python" tools/android/android_api.py check "$types" $min_sdk "$build"/demo-{ui,play,emulator} &&
    kotlin demo-device-test "$app/androidTestEmulator/kotlin" -- "-Xfriend-paths=$build/demo-emulator" \
      -cp "$build/demo-emulator:$classes:$(class_path demo-ui-test)"
}

# The pipeline that Gradle runs. The model is made anew when something that it is made of has changed.
gate_demo-assets() {
  local stamp=$build/demo/model.sha256 key port
  key=$(git ls-files -s -- android_demo/model tools/demo_model sdk/python/corelocker | sha256sum; git diff HEAD -- android_demo/model tools/demo_model | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] || { assets model && echo "$key" >"$stamp"; } || return
  rm -rf "$build/demo/state/service"
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  assets images && assets development --model "$build/demo/model" --port "$port" &&
    PYTHONPATH=sdk/python "$python" -m corelocker verify "$build/demo/model/fashion.pte" --bundle "$build/demo/model/fashion.clkey" \
      --full --keystore "$build/demo/state/keys.json"
}

# A purchase in the demo's own view models, over the real service, the C core and ExecuTorch.
gate_demo-end-to-end() {
  local classes=$build/demo-ui:$build/executorch:$build/android:$build/core:$executorch_jar
  classes=$classes:$(class_path demo-ui-test):$(class_path core-test):$(class_path executorch)
  compose demo-end-to-end "$demo/ui/src/sharedTest/kotlin" "$root/tests/android/demo_world" -- \
    "-Xfriend-paths=$build/core,$build/android,$build/executorch" -cp "$classes:$(class_path android-all)" &&
    PYTHONPATH=sdk/python desktop demo-end-to-end "$classes" -Xcheck:jni "-Djava.library.path=$build/native:$build/native-executorch" \
      "-Dcorelocker.python=$python" "-Ddemo.assets=$build/demo" | tee "$build/demo-end-to-end.out" &&
    ! grep -EA 3 '^WARNING(:| in native)' "$build/demo-end-to-end.out"
}
