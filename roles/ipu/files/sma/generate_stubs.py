# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generate SMA's protobuf and gRPC stubs into the installed package `spdk`.

The wheel `spdk` has the server but not the modules `sma_pb2`, `sma_pb2_grpc`, … that it imports. They come from the
collection's wire-compatible .proto files. Run once after the installation, with the interpreter that has `spdk` and
`grpcio-tools`:

    python generate_stubs.py <directory of the .proto files> [<target directory>]

The target is `spdk/sma/proto` of the installed wheel unless it is named. Exits 0 and prints the target, or exits 1 with
the reason.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def installed_proto_directory() -> Path:
    """Where the installed `spdk` looks for its stubs. Does not import it: without stubs it cannot be imported."""
    spec = importlib.util.find_spec("spdk")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"generate_stubs: no package spdk in {sys.prefix}; install spdk[sma] there first")
    return Path(next(iter(spec.submodule_search_locations))) / "sma" / "proto"


def generate(sources: Path, target: Path) -> None:
    """Compile every .proto file of `sources` into `target`; raises SystemExit with the reason."""
    try:
        from grpc_tools import protoc
    except ImportError:
        raise SystemExit(f"generate_stubs: no grpcio-tools in {sys.prefix}; install build-requirements.txt") from None
    files = sorted(path.name for path in sources.glob("*.proto"))
    if not files:
        raise SystemExit(f"generate_stubs: no .proto file in {sources}")
    if not target.is_dir():
        raise SystemExit(f"generate_stubs: {target} is not there: is the installed spdk one with SMA?")
    arguments = ["protoc", f"-I{sources}", f"--python_out={target}", f"--grpc_python_out={target}", *files]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"generate_stubs: protoc refused the files in {sources}")


def main() -> None:
    """Command line, see the module's text."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: generate_stubs.py <directory of the .proto files> [<target directory>]")
    target = Path(sys.argv[2]) if len(sys.argv) == 3 else installed_proto_directory()
    generate(Path(sys.argv[1]), target)
    print(target)


if __name__ == "__main__":
    main()
