#!/bin/sh
# Collect SMA's Python packages, with the stubs that its wheel lacks, into <directory>/packages.
#
#   collect-sma.sh PYTHON TARGET_VERSION MACHINE DIRECTORY REQUIREMENT...
#
# PYTHON has pip and grpcio-tools. The packages are for CPython TARGET_VERSION on MACHINE (as uname -m calls it), which need
# not be those of this computer: nothing is compiled here, only wheels are taken. <directory>/complete appears when
# everything is there.
set -eu
python=$1 version=$2 machine=$3 directory=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)

# Several IPUs may ask for the same at once: who comes later waits and finds it.
mkdir -p "$(dirname "$directory")"
exec 9>>"$directory.lock"
flock 9
[ ! -e "$directory/complete" ] || exit 0
rm -rf "$directory"
mkdir -p "$directory"
"$python" -m pip install --quiet --disable-pip-version-check --target "$directory/packages" \
    --no-compile --only-binary :all: --implementation cp --python-version "$version" \
    --platform "manylinux2014_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux_2_28_$machine" \
    --platform any \
    --requirement "$here/sma/requirements.txt" "$@"
"$python" "$here/sma/generate_stubs.py" "$here/proto" "$directory/packages/spdk/sma/proto"
touch "$directory/complete"
