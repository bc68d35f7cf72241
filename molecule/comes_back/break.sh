#!/bin/sh
# Break containers, all of them at the same time.
#
#   break.sh kill CONTAINER... | restart CONTAINER...
#
# kill ends what a container runs with SIGKILL: SPDK is the child of its container's first process, SMA and QEMU are that
# process itself. restart lets Docker restart them.
set -eu
action=$1
shift
case $action in
kill)
    victims=
    for container; do
        first=$(docker inspect --format '{{.State.Pid}}' "$container")
        child=$(cat "/proc/$first/task/$first/children")
        victims="$victims ${child:-$first}"
    done
    # shellcheck disable=SC2086  # one word each
    kill -KILL $victims
    ;;
restart)
    waiting=
    for container; do
        docker restart --time 5 "$container" &
        waiting="$waiting $!"
    done
    for one in $waiting; do
        wait "$one"
    done
    ;;
esac
