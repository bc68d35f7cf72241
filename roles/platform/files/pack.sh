#!/bin/sh
# Pack a directory so that equal content gives an equal archive, and print the archive's SHA-256.
#
#   [PACK_PREFIX=PATH/] pack.sh DIRECTORY ARCHIVE [MEMBER...]
#
# PACK_PREFIX comes before the members' names in the archive.
set -eu
directory=$1 archive=$2
shift 2
[ $# -gt 0 ] || set -- .
mkdir -p "$(dirname "$archive")"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX --exclude=__pycache__ --exclude=.ruff_cache \
    --transform="flags=r;s,^,${PACK_PREFIX:-}," -C "$directory" -cf "$archive.$$" "$@"
mv "$archive.$$" "$archive"
sha256sum "$archive" | cut -d ' ' -f 1
