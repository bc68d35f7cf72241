#!/bin/sh
# Does a guest come up with KVM in time? RESULT gets the answer, yes or no, and a line with what the guest said last.
#
#   probe-kvm.sh IMAGE GUEST_DIRECTORY SECONDS CONTAINER LAB RESULT DEVICE DEVICE_GID USER
#
# Confined as the guest itself will be (tasks/guest_run.yml): the device may open for root and not for USER.
set -eu
image=$1 guest=$2 seconds=$3 container=$4 lab=$5 result=$6 device=$7 gid=$8 user=$9
trap 'docker rm --force "$container" >/dev/null 2>&1 || :' EXIT
docker run --detach --name "$container" --label "io.ipdk.lab=$lab" --network none \
    --user "$user" --group-add "$gid" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --device "$device" --volume "$guest:$guest:ro" "$image" \
    -nodefaults -no-user-config -display none -no-reboot -machine q35 -accel kvm -cpu host -m 256 \
    -kernel "$guest/vmlinuz" -initrd "$guest/initrd" -append "console=ttyS0 panic=-1 quiet" -serial stdio >/dev/null
answer=no
while [ "$seconds" -gt 0 ]; do
    if docker logs "$container" 2>&1 | grep -q 'ipdk: ready'; then
        answer=yes
        break
    fi
    [ "$(docker inspect --format '{{.State.Running}}' "$container")" = true ] || break
    sleep 1
    seconds=$((seconds - 1))
done
# Control characters are the console's.
said=$(docker logs "$container" 2>&1 | tr -d '\000-\011\013-\037' | grep . | tail -n 1 || :)
printf '%s\n%s\n' "$answer" "$said" >"$result"
