#!/bin/sh
# Hugepages of the machine, for all its nodes together. Says "changed" if it changed something, or would have.
#   hugepages.sh MODE reserve PAGES              that many in all, now and at each boot
#   hugepages.sh MODE mount DIRECTORY OPTIONS    a file system of a node's own, now and at each boot
#   hugepages.sh MODE unmount DIRECTORY…         without it, now and at each boot
#   hugepages.sh MODE release RUN_DIR            as many pages as there were before the first node, once no node has a file
#                                                system of theirs
# MODE is apply, or check: change nothing.
set -eu
settings=/etc/sysctl.d/60-ipdk-hugepages.conf
number=/proc/sys/vm/nr_hugepages
fstab=/etc/fstab
mode=$1 command=$2
shift 2
# Nodes of one machine may be deployed by different runs, or by tasks of one run that Ansible starts at once: its throttle
# holds for one task, and with the strategy "free" each host that includes a file has tasks of its own.
exec 9>/run/lock/ipdk-hugepages
flock 9

mounted() { awk -v directory="$1" '$3 == "hugetlbfs" && $2 == directory { found = 1 } END { exit !found }' /proc/self/mounts; }
line_of() { [ ! -e $fstab ] || awk -v directory="$1" '$1 !~ /^#/ && $2 == directory' $fstab; }

# A boot finds the old one or the new one, whole. What is mounted over it cannot be replaced, only written.
set_line() {
    file=$(readlink -f $fstab)
    if [ -e "$file" ]; then cp -p "$file" "$file.ipdk"; else : >"$file.ipdk"; fi
    {
        [ ! -e "$file" ] || awk -v directory="$1" '$1 ~ /^#/ || $2 != directory' "$file"
        [ -z "$2" ] || echo "$2"
    } >"$file.ipdk"
    sync "$file.ipdk"
    mv "$file.ipdk" "$file" 2>/dev/null || { cat "$file.ipdk" >"$file"; rm "$file.ipdk"; }
}

case $command in
    reserve)
        before=$(sed -n 's/^# before: //p' "$settings" 2>/dev/null || true)
        before=${before:-$(cat $number)}
        wanted=$(printf '# Written by ipdk.storage for its nodes.\n# before: %s\nvm.nr_hugepages = %s' "$before" "$1")
        [ "$wanted" != "$(cat "$settings" 2>/dev/null)" ] || [ "$(cat $number)" != "$1" ] || exit 0
        echo changed
        [ "$mode" = apply ] || exit 0
        mkdir -p "${settings%/*}"
        echo "$wanted" >"$settings.new"
        mv "$settings.new" "$settings"
        echo "$1" >$number
        ;;
    mount)
        line="hugetlbfs $1 hugetlbfs $2 0 0"
        [ "$(line_of "$1")" != "$line" ] || ! mounted "$1" || exit 0
        echo changed
        [ "$mode" = apply ] || exit 0
        if [ "$(line_of "$1")" != "$line" ]; then
            # Its options are those of the mount's beginning. First: where it is in use, the next run has to try again.
            ! mounted "$1" || umount "$1"
            set_line "$1" "$line"
        fi
        mkdir -p "$1"
        mounted "$1" || mount "$1"
        ;;
    unmount)
        for directory in "$@"; do
            [ -n "$(line_of "$directory")" ] || mounted "$directory" || continue
            echo changed
            [ "$mode" = apply ] || continue
            ! mounted "$directory" || umount "$directory"
            rmdir "$directory" 2>/dev/null || true
            [ -z "$(line_of "$directory")" ] || set_line "$directory" ''
        done
        ;;
    release)
        before=$(sed -n 's/^# before: //p' "$settings" 2>/dev/null || true)
        [ -n "$before" ] || exit 0
        ! awk -v run="$1/" '$3 == "hugetlbfs" && index($2, run) == 1 { found = 1 } END { exit !found }' /proc/self/mounts || exit 0
        echo changed
        [ "$mode" = apply ] || exit 0
        echo "$before" >$number
        rm "$settings"
        ;;
esac
