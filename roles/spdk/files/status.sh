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
objects=$(find "$work" -name '*.o' 2>/dev/null | wc -l)
all=$(cat "$work.objects" 2>/dev/null || echo 0)
# The sources of what was not configured are counted, too: a bound, not a promise.
percent=$([ "$all" -gt 0 ] && echo ", at least $((objects < all ? objects * 100 / all : 99)) %")
elapsed=$(($(date +%s) - $(stat -c %Y "$work.lock" 2>/dev/null || date +%s)))
echo "${now:-waiting}: $objects objects$percent, $elapsed s; $(tail -n 1 "$work.log" 2>/dev/null | cut -c 1-100)"
