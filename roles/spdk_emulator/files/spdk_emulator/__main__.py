"""``python3 -m spdk_emulator`` with the command line of ``spdk_tgt``."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys

from .app import App
from .options import Options, parse


async def _run(options: Options) -> int:
    return await App(options).run()


def main() -> int:
    options = parse(sys.argv[1:])
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if options.quiet else logging.INFO,
        format="[%(asctime)s] %(name)s: %(levelname)s: %(message)s",
    )
    gc.freeze()  # what is loaded now stays: it need not be looked at by each collection
    return asyncio.run(_run(options))


if __name__ == "__main__":
    sys.exit(main())
