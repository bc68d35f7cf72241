#!/bin/sh
# Collect SMA's Python packages, with the stubs that its wheel lacks, into <directory>/packages.
#
#   collect-sma.sh PYTHON TARGET_VERSION DIRECTORY REQUIREMENT...
#
# PYTHON has pip and grpcio-tools. <directory>/complete appears when everything is there.
set -eu
python=$1 version=$2 directory=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)

rm -rf "$directory"
mkdir -p "$directory"
"$python" -m pip install --quiet --disable-pip-version-check --target "$directory/packages" \
    --no-compile --only-binary :all: --implementation cp --python-version "$version" \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 --platform any \
    --requirement "$here/sma/requirements.txt" "$@"
"$python" "$here/sma/generate_stubs.py" "$here/proto" "$directory/packages/spdk/sma/proto"
touch "$directory/complete"
