#!/bin/sh
# Fills a folder with the root of an image, by the scripts that the Dockerfile runs, where no image
# builder is at hand: fill.sh base|flows|train|vllm|dashboard FOLDER
# As root, with debootstrap. An existing FOLDER is filled further: copy base to begin the others.
# BUILD_MOUNTS: files and folders of this machine that pip needs, such as a package index; they are
# mounted read-only at their own paths. MIRROR: where Debian's packages come from.
set -eu
stage=$1 root=$2
repo=$(cd "$(dirname "$0")/../.." && pwd)
if [ ! -e "$root/etc/debian_version" ]; then
  debootstrap --variant=minbase bookworm "$root" "${MIRROR:-http://deb.debian.org/debian}"
fi
mkdir -p "$root/build"
for part in pyproject.toml constraints.txt README.md LICENSE components flows dashboards; do
  cp -R "$repo/$part" "$root/build/"
done
cp "$repo"/infra/images/*.sh "$root/build/"
export root stage BUILD_MOUNTS="${BUILD_MOUNTS:-} /etc/resolv.conf"
# Mounts in a space of their own: none is left behind, however this ends.
unshare --mount --pid --fork sh -eu -c '
  mount -t proc proc "$root/proc"
  for path in $BUILD_MOUNTS; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root$(dirname "$path")"; : >>"$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"  # what a package installs must not change this machine
  done
  export PATH=/opt/interloom/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
  if [ ! -x "$root/opt/interloom/bin/python" ]; then chroot "$root" sh /build/base.sh; fi
  if [ "$stage" != base ]; then chroot "$root" sh /build/stage.sh "$stage"; fi
'
rm -rf "$root/build"
du -sm "$root" | cut -f1
