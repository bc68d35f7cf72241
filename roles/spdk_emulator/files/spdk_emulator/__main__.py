"""``python3 -m spdk_emulator`` with the command line of ``spdk_tgt``."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

from .app import App
from .framework.turns import Selector
from .options import Options, parse


def run(work: Coroutine[Any, Any, int]) -> int:
    """``asyncio.run`` with a selector of ours, which takes a loop from Python 3.12 on only."""
    loop = asyncio.SelectorEventLoop(Selector())
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


async def _run(options: Options) -> int:
    return await App(options).run()


def main() -> int:
    options = parse(sys.argv[1:])
    logging.basicConfig(stream=sys.stderr)
    return run(_run(options))


if __name__ == "__main__":
    sys.exit(main())
