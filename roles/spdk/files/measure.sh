#!/bin/sh
# What this machine has for its nodes, as YAML: measure.sh RUN_DIR HUGEPAGE_DIR
#   RUN_DIR        nodes have the file systems of their hugepages below it
#   HUGEPAGE_DIR   this node's
# Hugepages that the nodes hold already count as free: they are theirs again at their next start. A node holds what its
# processes have mapped, for SPDK unlinks its files, or what files a crash has left, whichever is more.
set -eu
of_meminfo() { awk -v name="$1:" '$1 == name { found = $2 } END { print found + 0 }' /proc/meminfo; }
held=0 there=false
directories=$(awk -v run="$1/" '$3 == "hugetlbfs" && index($2, run) == 1 { print $2 }' /proc/self/mounts)
for directory in $directories; do
    test "$directory" != "$2" || there=true
    mapped=0
    for process in /proc/[0-9]*; do
        # One that ends meanwhile holds nothing.
        grep -zqxF -- "$directory" "$process/cmdline" 2>/dev/null || continue
        kib=$(awk '$1 == "HugetlbPages:" { print $2 }' "$process/status" 2>/dev/null) || continue
        mapped=$((mapped + ${kib:-0}))
    done
    files=$(du -sk "$directory" | cut -f 1)
    held=$((held + (mapped > files ? mapped : files)))
done
size=$(of_meminfo Hugepagesize)
cat <<END
memory_mib: $(($(of_meminfo MemTotal) / 1024))
cpus: "$(cat /sys/devices/system/cpu/online)"
files: $(awk '/^Max open files/ { print $5 == "unlimited" ? 1048576 : $5 }' /proc/self/limits)
hugepage_kib: $size
hugepages_total: $(of_meminfo HugePages_Total)
hugepages_free: $(($(of_meminfo HugePages_Free) + (size > 0 ? held / size : 0)))
hugepages_there: $there
END
