#!/bin/sh
# Build what a simulated host boots: a kernel, an initial RAM file system and a Debian root file system.
#
#   build-guest.sh OUT SUITE SOURCES DISK_SIZE PACKAGE...
#
# OUT         directory to make; it appears only when everything in it is complete: vmlinuz, initrd, root.ext4
# SUITE       Debian code name
# SOURCES     file with apt sources in one-line format
# DISK_SIZE   size of root.ext4, as mke2fs understands it (the file is sparse)
# PACKAGE...  packages of the root file system
#
# `init` beside this script becomes the init of the initial RAM file system, `guest.d` is copied over the root,
# the units listed in `masked-units` are masked.
# Needs mmdebstrap, mke2fs, cpio, and root. No loop device, nothing is mounted.
set -eu

out=$1 suite=$2 sources=$3 size=$4
shift 4
packages=$(echo "$*" | tr ' ' ,)
here=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$work/result"

# The kernel package is unpacked rather than installed: its maintainer scripts would build an initial RAM file system
# that nobody uses. The hook's variables are for the shell that mmdebstrap starts.
# shellcheck disable=SC2016
mmdebstrap --verbose --variant=minbase --format=directory \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --aptopt='APT::Install-Recommends "false"' \
    --include="$packages,busybox-static,kmod,systemd-sysv,udev" \
    --customize-hook='chroot "$1" sh -euc "
        cd /tmp
        apt-get -q download \$(apt-cache depends linux-image-cloud-amd64 | sed -n \"s/^ *Depends: //p\" | head -n 1)
        dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --keep-directory-symlink -C /
        rm linux-image-*.deb"' \
    "$suite" "$root" "$sources"

version=$(ls "$root/lib/modules")
depmod=$root/sbin/depmod
[ -x "$depmod" ] || depmod=depmod
chroot "$root" depmod "$version"
cp "$root/boot/vmlinuz-$version" "$work/result/vmlinuz"
rm -rf "${root:?}/boot"

# One initial RAM file system for both kinds of guest.
initrd=$work/initrd
mkdir -p "$initrd/bin" "$initrd/modules" "$initrd/proc" "$initrd/sys" "$initrd/dev" "$initrd/newroot"
cp "$root/bin/busybox" "$initrd/bin/busybox"
ln -s busybox "$initrd/bin/sh"
cp "$here/init" "$initrd/init"
chmod 0755 "$initrd/init"
: >"$initrd/modules/order"
for module in virtio_pci virtio_blk ext4; do
    chroot "$root" modprobe --set-version "$version" --show-depends "$module" >>"$work/modules"
done
while read -r verb file _; do
    [ "$verb" = insmod ] || continue
    name=$(basename "$file")
    [ -e "$initrd/modules/$name" ] && continue
    cp "$root/$file" "$initrd/modules/$name"
    echo "$name" >>"$initrd/modules/order"
done <"$work/modules"
(cd "$initrd" && find . >"$work/list" && cpio --quiet --owner=0:0 -o -H newc <"$work/list" >"$work/result/initrd")
gzip -n "$work/result/initrd"
mv "$work/result/initrd.gz" "$work/result/initrd"
# The kernel finds what is appended only at a multiple of four bytes.
truncate -s %4 "$work/result/initrd"

# systemd reaches multi-user.target sooner, under emulation above all, without what a simulated host never uses.
cp -a "$here/guest.d/." "$root/"
chown -R root:root "$root/etc/systemd" "$root/etc/modules-load.d"
while read -r unit; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done <"$here/masked-units"
for unit in systemd-networkd ssh; do
    chroot "$root" systemctl --quiet enable "$unit.service"
done
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
: >"$root/etc/fstab"

truncate -s "$size" "$work/result/root.ext4"
mke2fs -q -t ext4 -L ipdk-root -E lazy_itable_init=1,root_owner=0:0 -O ^metadata_csum_seed -d "$root" "$work/result/root.ext4"

chmod 0755 "$work/result"
chmod 0644 "$work/result"/*
mv -T "$work/result" "$out"
