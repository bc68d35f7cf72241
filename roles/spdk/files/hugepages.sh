#!/bin/sh
# Hugepages of the machine, for all its nodes together. Says "changed" if it changed something.
#   hugepages.sh reserve PAGES     that many in all, now and at each boot
#   hugepages.sh release RUN_DIR   as many as there were before the first node, once no node has a file system of theirs
set -eu
settings=/etc/sysctl.d/60-ipdk-hugepages.conf
number=/proc/sys/vm/nr_hugepages
# Nodes of one machine may be deployed by different runs.
exec 9>/run/lock/ipdk-hugepages
flock 9
before=$(sed -n 's/^# before: //p' "$settings" 2>/dev/null || true)
case $1 in
    reserve)
        before=${before:-$(cat $number)}
        mkdir -p "${settings%/*}"
        printf '# Written by ipdk.storage for its nodes.\n# before: %s\nvm.nr_hugepages = %s\n' "$before" "$2" >"$settings.new"
        cmp -s "$settings.new" "$settings" && test "$(cat $number)" = "$2" || echo changed
        mv "$settings.new" "$settings"
        echo "$2" >$number
        ;;
    release)
        test -n "$before" || exit 0
        ! awk -v run="$2/" '$3 == "hugetlbfs" && index($2, run) == 1 { found = 1 } END { exit !found }' /proc/self/mounts || exit 0
        echo "$before" >$number
        rm "$settings"
        echo changed
        ;;
esac
