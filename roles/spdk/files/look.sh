#!/bin/sh
# What there is of a node already, a line each: look.sh STATE_DIR RUNTIME UNIT CONTAINER USER [DIRECTORY...]
#   made              its STATE_DIR is there
#   runtime NAME      another one than RUNTIME runs its SPDK, as UNIT or CONTAINER
#   DIRECTORY (uid N) files of somebody else than USER are in it
set -eu
state=$1 runtime=$2 unit=$3 container=$4 user=$5
shift 5
[ ! -e "$state" ] || echo made
case $runtime in
    container) [ ! -e "/etc/systemd/system/$unit.service" ] || echo runtime systemd ;;
    systemd) ! docker container inspect "$container" >/dev/null 2>&1 || echo runtime container ;;
esac
for directory; do
    owner=$(stat --format=%u -- "$directory" 2>/dev/null) || continue
    [ "$owner" = "$user" ] || [ -z "$(find "$directory" -mindepth 1 -print -quit)" ] || echo "$directory (uid $owner)"
done
