"""``python3 -m spdk_emulator`` with the command line of ``spdk_tgt``."""

from __future__ import annotations

import asyncio
import logging
import sys

from .app import App
from .options import Options, parse


async def _run(options: Options) -> int:
    return await App(options).run()


def main() -> int:
    options = parse(sys.argv[1:])
    logging.basicConfig(stream=sys.stderr)
    return asyncio.run(_run(options))


if __name__ == "__main__":
    sys.exit(main())
