#!/bin/sh
# Does a guest come up with KVM in time? The answer, yes or no, goes into RESULT.
#
#   probe-kvm.sh IMAGE GUEST_DIRECTORY SECONDS CONTAINER LAB RESULT
set -eu
image=$1 guest=$2 seconds=$3 container=$4 lab=$5 result=$6
trap 'docker rm --force "$container" >/dev/null 2>&1 || :' EXIT
docker run --detach --name "$container" --label "io.ipdk.lab=$lab" --network none --cap-drop ALL \
    --device /dev/kvm --volume "$guest:$guest:ro" "$image" \
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
echo "$answer" >"$result"
