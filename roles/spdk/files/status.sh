#!/bin/sh
# How far the build in $1 is, in one line; waits for news, $2 seconds at most.
work=$1 looks=$(($2 * 5))
before=$(cat "$work.phase" 2>/dev/null)
while [ "$looks" -gt 0 ]; do
    now=$(cat "$work.phase" 2>/dev/null)
    case $now in built | failed*) break ;; esac
    [ "$now" = "$before" ] || break
    sleep 0.2
    looks=$((looks - 1))
done
if [ "$now" = built ]; then
    echo "built; $(tail -n 1 "$work.log" 2>/dev/null | cut -c 1-100)"
    exit 0
fi
# A count, no share: how many there will be is known to nobody before the submodules' own build systems have run.
objects=$(find "$work" -name '*.o' 2>/dev/null | wc -l)
elapsed=$(($(date +%s) - $(stat -c %Y "$work.lock" 2>/dev/null || date +%s)))
echo "${now:-waiting}: $objects files compiled, $elapsed s; $(tail -n 1 "$work.log" 2>/dev/null | cut -c 1-100)"
