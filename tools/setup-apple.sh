#!/usr/bin/env bash
# Sets up what the Apple gates need, idempotently: Swift for Linux (Debian trixie's swiftlang and OpenSSL in a chroot), and a list of
# Apple's Objective-C API (npm's @nativescript/types-ios, in .cache).
#
# Packages come from Debian by the machine's own apt configuration. The chroot lies in the user's cache folder, so that every
# checkout on the machine shares it (2.6 GB; override with CORELOCKER_SWIFT_ROOT). Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

root=${CORELOCKER_SWIFT_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/corelocker/swift-trixie}
release=trixie
packages=(swiftlang libc6-dev libstdc++-14-dev libssl-dev pkg-config)
stamp=$root/.set-up
wanted="$release ${packages[*]}"

types=.cache/types-ios types_version=9.1.2
if [ "$(cat "$types/.version" 2>/dev/null)" != "$types_version" ]; then
  command -v npm >/dev/null || apt-get install -q -y --no-install-recommends npm
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack "@nativescript/types-ios@$types_version" --silent >/dev/null)
  rm -rf "$types"
  mkdir -p "$types"
  tar -xzf "$work"/*.tgz -C "$types" --strip-components 1
  echo "$types_version" >"$types/.version"
fi

[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0
[ "$(id -u)" -eq 0 ] || { echo "setup-apple: needs root for a chroot" >&2; exit 1; }
tools/debian.sh debootstrap

mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/\?$') ||
  { echo "setup-apple: the machine's apt configuration names no Debian archive" >&2; exit 1; }
if [ ! -e "$root/.debootstrapped" ]; then
  rm -rf "$root"
  mkdir -p "$root"
  debootstrap --variant=minbase --include=ca-certificates "$release" "$root" "$mirror"
  touch "$root/.debootstrapped"
fi
# Some packages' scripts want /proc; the mounts end with this private namespace.
unshare -m bash -s "$root" "${packages[@]}" <<'INSIDE'
set -euo pipefail
root=$1
shift
mount -t proc proc "$root/proc"
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
chroot "$root" apt-get clean
INSIDE
echo "$wanted" >"$stamp"
