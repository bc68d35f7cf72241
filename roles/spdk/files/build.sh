#!/bin/sh
# Build SPDK in $WORK from $TREE, or from $URL at $TAG (which has to be $COMMIT), and install it as $DIRECTORY/$NAME. One
# build of a kind at a time, from its first file to its last: who comes later waits and finds the work done. What it does
# goes to $WORK.log, the phase to $WORK.phase; status.sh reads both. Where it fails it prints the phase and the end of the
# log: whoever builds next writes another one.
#   INSTALL      the text of install.sh
#   PROGRAMS     what is installed: names, separated by blanks
#   KEEP         not empty: the tree that was built stays
#   SUBMODULES   lines "<path> <url> <commit>": submodules that come from elsewhere; a commit may be left out. One whose URL
#                is - is not fetched at all
#   OPTIONS      of configure, one a line
#   ARCH JOBS CC
set -eu
# The Python modules that the build needs are the distribution's; so is the interpreter that finds them.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

# These are for this script alone: configure takes INSTALL for the program that installs, and make takes every name.
for own in WORK DIRECTORY NAME INSTALL PROGRAMS KEEP TREE URL TAG COMMIT SUBMODULES OPTIONS ARCH JOBS CC; do
    eval "value=\${$own-}; unset $own; $own=\$value"
done

phase() { echo "== $1"; echo "$1" >"$WORK.phase"; }

failed() {
    echo "failed in $(cat "$WORK.phase")" >"$WORK.phase"
    cat "$WORK.phase" >&3
    tail -n 12 "$WORK.log" >&3
}

fetch() {
    rm -rf "$WORK"
    mkdir -p "$WORK"
    if [ -n "$TREE" ]; then
        tar -C "$TREE" --exclude=./.git --exclude=./build -cf - . | tar -C "$WORK" -xf -
        return
    fi
    cd "$WORK"
    git init -q .
    # Submodules may be at paths, too: an offline mirror. Depth 1 is no use there.
    git fetch -q --depth 1 "$URL" "refs/tags/$TAG" || git fetch -q "$URL" "refs/tags/$TAG"
    here=$(git rev-parse 'FETCH_HEAD^{commit}')
    [ "$here" = "$COMMIT" ] || { echo "$TAG of $URL is $here, not $COMMIT"; exit 4; }
    git checkout -q --detach "$COMMIT"
    git remote add origin "$URL"
    git submodule init
    echo "$SUBMODULES" | while read -r path url pinned; do
        case $path in '' | '#') continue ;; esac
        submodule=$(git config -f .gitmodules --get-regexp '^submodule\..*\.path$' | awk -v path="$path" \
            '$2 == path { sub(/^submodule\./, "", $1); sub(/\.path$/, "", $1); print $1 }')
        [ -n "$submodule" ] || { echo "no submodule at $path"; exit 4; }
        if [ "$url" != - ]; then
            git config "submodule.$submodule.url" "$url"
            [ -n "$pinned" ] || continue
            git -c protocol.file.allow=always clone -q --no-checkout "$url" "$path"
            git -C "$path" checkout -q --detach "$pinned"
        fi
        git config "submodule.$submodule.active" false
        git config "submodule.$submodule.update" none
    done
    git -c protocol.file.allow=always submodule update --init --depth 1 \
        || git -c protocol.file.allow=always submodule update --init
}

configure() {
    cd "$WORK"
    set -f
    old=$IFS
    IFS='
'
    # shellcheck disable=SC2086  # one option a line
    set -- $OPTIONS
    IFS=$old
    export CC
    ./configure "--target-arch=$ARCH" "$@"
}

mkdir -p "$(dirname "$WORK")"
exec 9>>"$WORK.lock"
flock 9
if [ -f "$DIRECTORY/$NAME/VERSION" ]; then
    echo built >"$WORK.phase"
    exit 0
fi
touch "$WORK.lock"
exec 3>&1 >"$WORK.log" 2>&1
trap '[ $? = 0 ] || failed' EXIT

if [ ! -f "$WORK/built" ]; then
    phase fetch
    fetch
    phase configure
    configure
    phase compile
    [ "$JOBS" -gt 0 ] || JOBS=$(nproc)
    make -j"$JOBS"
    touch "$WORK/built"
fi
# Here and not later: nobody may find a tree that is just being removed.
phase install
sh -c "$INSTALL" install make "$DIRECTORY" "$NAME" "$PROGRAMS" "$WORK/build/lib:$WORK/dpdk/build/lib" "$WORK/build/bin"
phase built
cd /
[ -n "$KEEP" ] || rm -rf "$WORK"
