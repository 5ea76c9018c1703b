#!/bin/bash
# apk-android.sh play|emulator OUT CLASSES..: the demo app's package of a flavor, without the Android SDK, and what a phone asks of it.
#
# CLASSES are folders of compiled classes. Manifest and resources are the demo's, linked by aapt2 against Debian's framework of
# API 29, without the newer attributes, which are named; dx makes the classes dex files; model and key bundle are the demo's; the
# native libraries are those of the link check. Debian's apksigner signs it with a key of this run. Not one to install: the
# native libraries lack ExecuTorch, and a phone's framework has to read it yet. Env: CLASS_PATH and DX (jars), PYTHON, LINKED (folder
# with link-ABI), ASSETS (folders, with a colon between them), DEX_CACHE (folder).
set -euo pipefail
flavor=$1 out=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
app=$root/android_demo/app/src
framework=/usr/share/android-framework-res/framework-res.apk
helper=("$PYTHON" "$root/tools/android/apk.py")
rm -rf "$out" && mkdir -p "$out"
id=org.corelocker.demo
[ "$flavor" = emulator ] && id+=.emulator

manifests=("$app/main/AndroidManifest.xml")
[ ! -e "$app/$flavor/AndroidManifest.xml" ] || manifests+=("$app/$flavor/AndroidManifest.xml")
manifests+=("$root"/sdk/android/{android,executorch}/src/main/AndroidManifest.xml)

compile_resources() {
  local set
  for set in main "$flavor"; do
    [ ! -d "$app/$set/res" ] || aapt2 compile --dir "$app/$set/res" -o "$out/$set.zip"
  done
}

# link: fails with aapt2's words; names in $out/unknown are left out of the manifest.
link() {
  "${helper[@]}" manifest "$out/AndroidManifest.xml" "$id" 1.0.0 "${manifests[@]}" <"$out/unknown"
  local overlay=()
  [ ! -e "$out/$flavor.zip" ] || overlay=(-R "$out/$flavor.zip")
  aapt2 link -I $framework --manifest "$out/AndroidManifest.xml" --auto-add-overlay -o "$out/base.apk" "$out/main.zip" "${overlay[@]}" \
    2>"$out/link.log"
}

# A newer framework has these attributes: they are left out, named, and looked up nowhere here.
link_resources() {
  : >"$out/unknown"
  link && return
  sed -nE 's/.*attribute android:([A-Za-z]+) not found.*/\1/p' "$out/link.log" | sort -u >"$out/unknown"
  [ -s "$out/unknown" ] || { cat "$out/link.log" && return 1; }
  link || { cat "$out/link.log" && return 1; }
  sed 's/^/unchecked: the framework of API 29 lacks android:/' "$out/unknown"
}

dx() { java -Xmx2g -cp "$DX" com.android.dx.command.Main --dex --multi-dex --min-sdk-version=26 "--output=$1" "$2"; }

# Libraries change rarely, and dx takes its time with them.
dex_libraries() {
  local key folder
  key=$(tr : '\n' <<<"$CLASS_PATH" | xargs -n1 basename | sha256sum | cut -c1-16)
  folder=$DEX_CACHE/$key
  if [ ! -d "$folder" ]; then
    mkdir -p "$folder.new"
    tr : '\n' <<<"$CLASS_PATH" | xargs "${helper[@]}" classes "$out/library-classes"
    dx "$folder.new" "$out/library-classes"
    mv "$folder.new" "$folder"
  fi
  cp "$folder"/*.dex "$out/dex/"
}

# Ours come first, as classes.dex.
dex() {
  local number=2 file
  mkdir -p "$out/dex" "$out/own"
  dex_libraries
  for file in $(ls -r "$out/dex"); do mv "$out/dex/$file" "$out/dex/library-$file"; done
  "${helper[@]}" classes "$out/own-classes" "$@"
  dx "$out/own" "$out/own-classes"
  mv "$out/own/classes.dex" "$out/dex/classes.dex"
  for file in "$out"/own/classes*.dex "$out"/dex/library-*.dex; do
    [ ! -e "$file" ] || mv "$file" "$out/dex/classes$((number++)).dex"
  done
}

pack() {
  local files=() file abi folder
  for file in "$out"/dex/*.dex; do files+=("$file=$(basename "$file")"); done
  for folder in ${ASSETS//:/ }; do
    for file in "$folder"/*; do files+=("$file=assets/$(basename "$file")"); done
  done
  for abi in arm64-v8a x86_64; do
    for file in "$LINKED/link-$abi"/lib*.so; do files+=("$file=lib/$abi/$(basename "$file")"); done
  done
  "${helper[@]}" pack "$out/base.apk" "$out/unsigned.apk" "${files[@]}"
}

sign() {
  keytool -genkeypair -keystore "$out/key.p12" -storetype PKCS12 -storepass corelocker -alias key -keyalg EC -groupname secp256r1 \
    -dname CN=Gate -validity 30 2>/dev/null
  apksigner sign --ks "$out/key.p12" --ks-pass pass:corelocker --ks-key-alias key --min-sdk-version 26 --v1-signing-enabled false \
    --v2-signing-enabled true --v3-signing-enabled true --v4-signing-enabled false --out "$out/app.apk" "$out/unsigned.apk"
  apksigner verify -v --min-sdk-version 26 "$out/app.apk" >"$out/verify.log"
  grep -qE 'v2 scheme.*: true' "$out/verify.log" && grep -qE 'v3 scheme.*: true' "$out/verify.log"
}

# dump NAME COMMAND..: what aapt2 reads in the package, in a file, since a pipe may close early.
dump() {
  local name=$1
  shift
  aapt2 dump "$@" >"$out/$name.txt"
}

# tree NAME FILE: an XML file of the package.
tree() { dump "$1" xmltree "$out/app.apk" --file "$2"; }

refuse() { echo "$flavor: $1" && return 1; }

# Keys and code for emulators are in the emulator flavor alone.
check_development() {
  local wanted=1 key=1 code=1
  [ "$flavor" = emulator ] && wanted=0
  grep -q 'assets/corelocker-development.pem' "$out/entries.txt" && key=0
  grep -aq 'Lorg/corelocker/android/DevelopmentKeys;' "$out/dex/classes.dex" && code=0
  [ $key = $wanted ] && [ $code = $wanted ] || refuse "development keys are where they should not be, or not where they should"
}

# Clear text and backups, as the package has them.
check_manifest() {
  local rules sections
  dump badging badging "$out/app.apk"
  grep -q "^package: name='$id'" "$out/badging.txt" || refuse "the package is not $id" || return
  tree manifest AndroidManifest.xml
  grep -q 'usesCleartextTraffic.*=false' "$out/manifest.txt" || refuse "clear text is not forbidden" || return
  unzip -l "$out/app.apk" >"$out/entries.txt"
  if [ "$flavor" = emulator ]; then
    tree network res/xml/network_security_config.xml
    grep -q 'cleartextTrafficPermitted.*true' "$out/network.txt" || refuse "clear text to the emulator's host is forbidden" || return
  else
    ! grep -q networkSecurityConfig "$out/manifest.txt" && ! grep -q network_security_config "$out/entries.txt" ||
      refuse "there is a network security configuration" || return
  fi
  grep -q 'fullBackupContent.*=@' "$out/manifest.txt" || refuse "there are no backup rules" || return
  for rules in backup_rules data_extraction_rules; do
    tree $rules res/xml/$rules.xml
    # Each section leaves the license store out, and none takes only what is named.
    sections=$(grep -cE 'E: (full-backup-content|cloud-backup|device-transfer)' "$out/$rules.txt")
    [ "$sections" = "$(grep -c 'path="no_backup/"' "$out/$rules.txt")" ] && ! grep -q 'E: include' "$out/$rules.txt" ||
      refuse "$rules do not exclude the license store" || return
  done
}

compile_resources
link_resources
dex "$@"
pack
sign
"${helper[@]}" check "$out/app.apk"
check_manifest
check_development
echo "$flavor: $(stat -c %s "$out/app.apk") bytes, $(grep -c '\.dex$' "$out/entries.txt") dex files"
