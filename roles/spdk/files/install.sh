#!/bin/sh
# Make an installation of programs that are built, unless there is one of the same content:
#   <directory>/<version>-<digest>/bin/<program>   the program, or a script that starts it with the libraries beside it
#                                 /lib             shared libraries that no Debian package brings
#                                 /VERSION         the release of SPDK
#
#   install.sh MODE DIRECTORY NAME PROGRAMS LIBRARIES PLACE…
#
# MODE       make, or name: say how it is called and make nothing
# NAME       how the installation is called; empty: by version and digest of what is in it
# PROGRAMS   names, separated by blanks; of several with | between them the first that is there
# LIBRARIES  where shared libraries are searched beside the usual places, separated by colons
# PLACE      directories that may have the programs; the first that has one counts
#
# Prints "<version> <path> <made|missing|there> <program>…". Ends with status 3 and one line on stderr where something is
# missing that it needs.
set -eu
umask 022
mode=$1 directory=$2 name=$3 programs=$4 libraries=$5
shift 5

refuse() { echo "$*" >&2; exit 3; }

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
for wanted in $programs; do
    found=
    for program in $(echo "$wanted" | tr '|' ' '); do
        for place in "$@"; do
            [ -f "$place/$program" ] && [ -x "$place/$program" ] && found=$place/$program && break 2
        done
    done
    [ -n "$found" ] || refuse "no program $(echo "$wanted" | sed 's/|/ or /g') in $*"
    echo "$found" >>"$stage/programs"
    # Debian's packages bring what is in /lib and /usr/lib; the rest goes along. A script has no libraries.
    LD_LIBRARY_PATH=$libraries ldd "$found" 2>/dev/null | awk '$2 == "=>" && $3 ~ "^/" && $3 !~ "^(/usr)?/lib" { print $3 }' \
        >>"$stage/libraries" || true
done
sort -u "$stage/libraries" -o "$stage/libraries"

version=$(cat "$stage/programs" "$stage/libraries" | tr '\n' '\0' \
    | xargs -0 grep -a -h -o -m 1 'SPDK v[0-9][0-9]*\.[0-9][0-9]*' | head -n 1 | cut -c 7-)
[ -n "$version" ] || refuse "$(head -n 1 "$stage/programs") is no program of SPDK: it names no version"
[ -n "$name" ] || name=$version-$(cat "$stage/programs" "$stage/libraries" | tr '\n' '\0' | xargs -0 sha256sum \
    | awk -F / '{ print $1 $NF }' | awk '{ print $1, $2 }' | sort | sha256sum | cut -c 1-8)
path=$directory/$name
say() { echo "$version $path $1 $(sed 's,.*/,,' "$stage/programs" | tr '\n' ' ')"; }
if [ -f "$path/VERSION" ]; then say there; exit 0; fi
if [ "$mode" = name ]; then say missing; exit 0; fi

mkdir -p "$directory"
new=$(mktemp -d "$directory/.new.XXXXXX")
trap 'rm -rf "$stage" "$new"' EXIT
mkdir "$new/bin"
if [ -s "$stage/libraries" ]; then
    mkdir "$new/lib" "$new/libexec"
    while read -r library; do cp -L "$library" "$new/lib/"; done <"$stage/libraries"
fi
while read -r program; do
    base=$(basename "$program")
    if [ -d "$new/lib" ]; then
        cp -L "$program" "$new/libexec/$base"
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s/lib exec %s/libexec/%s "$@"\n' "$path" "$path" "$base" >"$new/bin/$base"
    else
        cp -L "$program" "$new/bin/$base"
    fi
done <"$stage/programs"
# What a debugger needs stays where it was built. A script cannot be stripped.
if command -v strip >/dev/null; then
    find "$new" -type f -exec strip --strip-debug {} + 2>/dev/null || true
fi
chmod -R u=rwX,go=rX "$new"
chmod 0755 "$new"/bin/*
echo "$version" >"$new/VERSION"
# Another node of this machine may have been faster.
mv -T "$new" "$path" 2>/dev/null || [ -f "$path/VERSION" ] || refuse "cannot make $path"
say made
