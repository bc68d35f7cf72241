#!/bin/sh
# Pack a directory so that equal content gives an equal archive, and print the archive's SHA-256.
#
#   pack.sh DIRECTORY ARCHIVE [MEMBER]
set -eu
mkdir -p "$(dirname "$2")"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX --exclude=__pycache__ --exclude=.ruff_cache \
    -C "$1" -cf "$2.$$" "${3:-.}"
mv "$2.$$" "$2"
sha256sum "$2" | cut -d ' ' -f 1
