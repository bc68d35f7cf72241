#!/bin/sh
# Append to an initial RAM file system what makes a guest itself: host name, ssh host key, who may log in.
#
#   seed.sh BASE RESULT NAME AUTHORIZED_KEY OWNER
#
# The host key is kept beside RESULT, so that a new guest image does not change the guest's identity.
set -eu
base=$1 result=$2 name=$3 authorized=$4 owner=$5
key=$(dirname "$result")/ssh_host_ed25519_key
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -e "$key" ] || ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$key"
mkdir -p "$work/seed/etc/ssh" "$work/seed/root/.ssh"
cp "$key" "$key.pub" "$work/seed/etc/ssh/"
cp "$authorized" "$work/seed/root/.ssh/authorized_keys"
echo "$name" >"$work/seed/etc/hostname"
chmod 0755 "$work" "$work/seed" "$work/seed/etc" "$work/seed/etc/ssh"
chmod 0644 "$work/seed/etc/hostname" "$work/seed/etc/ssh/ssh_host_ed25519_key.pub"
(cd "$work" && find . >"$result.list" && cpio --quiet --owner=0:0 -o -H newc <"$result.list" >"$result.seed")
cat "$base" "$result.seed" >"$result.new"
chown "$owner" "$result.new"
rm "$result.seed" "$result.list"
mv "$result.new" "$result"
