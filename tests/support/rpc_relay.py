"""A relay in front of an SPDK JSON-RPC socket that writes down every request it passes on.

It knows nothing of the engine behind it, so the same count holds for the emulator and for SPDK. Without an upstream it
accepts connections, counts what is asked and answers nothing but "Method not found": enough to prove that bad input
sends no request at all.

    with RpcRelay("/run/x/counted.sock", upstream="/run/x/spdk.sock") as relay:
        ...
        relay.methods     # ["bdev_get_bdevs", ...] in order of arrival
        relay.requests    # the same as they came: [{"method": "bdev_get_bdevs", "params": ..., ...}, ...]
"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any


class RpcRelay:
    def __init__(self, path: str, upstream: str | None = None) -> None:
        self.path = Path(path)
        self.upstream = upstream
        self.requests: list[dict[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def methods(self) -> list[str]:
        return [request.get("method", "?") for request in self.requests]

    def __enter__(self) -> RpcRelay:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._thread.start()
        start = asyncio.start_unix_server(self._serve, str(self.path))
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.upstream is None:
            await self._refuse(reader, writer)
            return
        up_reader, up_writer = await asyncio.open_unix_connection(self.upstream)
        back = asyncio.create_task(self._copy(up_reader, writer))
        await self._copy(reader, up_writer, note=True)
        await back

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: bool = False) -> None:
        text = ""
        while data := await source.read(65536):
            if note:
                text = self._note(text + data.decode())
            sink.write(data)
            await sink.drain()
        sink.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = ""
        while data := await reader.read(65536):
            seen = len(self.requests)
            text = self._note(text + data.decode())
            for number in range(len(self.requests) - seen):
                error = {"code": -32601, "message": "Method not found"}
                writer.write(json.dumps({"jsonrpc": "2.0", "id": number + 1, "error": error}).encode())
            await writer.drain()
        writer.close()

    def _note(self, text: str) -> str:
        """Take every whole request off the front of ``text``; return what is left."""
        decoder = json.JSONDecoder()
        while text := text.lstrip():
            try:
                request, end = decoder.raw_decode(text)
            except ValueError:
                break
            self.requests.append(request)
            text = text[end:]
        return text
