#!/usr/bin/env bash
# Runs a command in the chroot that tools/setup-apple.sh made, with this checkout at /src and the network of the machine.
#
# Usage: tools/swift.sh COMMAND [ARGUMENT..]. Mounts end with the command's own namespace. Folders that CORELOCKER_SWIFT_BIND names
# (separated by colons) are visible inside at the same place, read-only.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${CORELOCKER_SWIFT_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/corelocker/swift-trixie}
[ -e "$root/.set-up" ] || { echo "swift: no Swift here; run tools/setup-apple.sh" >&2; exit 1; }
exec unshare -m bash -s "$root" "$PWD" "${CORELOCKER_SWIFT_BIND:-}" "$@" 3<&0 <<'INSIDE'
set -euo pipefail
root=$1 checkout=$2 visible=$3
shift 3
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mkdir -p "$root/src"
mount --bind "$checkout" "$root/src"
IFS=: read -ra folders <<<"$visible"
for folder in ${folders[@]+"${folders[@]}"}; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
  mount -o remount,bind,ro "$root$folder"
done
exec chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 CI="${CI:-}" TERM=dumb PATH=/usr/libexec/swift/bin:/usr/bin:/bin:/usr/sbin:/sbin \
  ${CORELOCKER_TEST_ENVIRONMENT:+CORELOCKER_TEST_ENVIRONMENT="$CORELOCKER_TEST_ENVIRONMENT"} \
  bash -c 'cd /src && exec "$@"' bash "$@" <&3
INSIDE
