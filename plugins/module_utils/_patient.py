# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files whose reading may never end, read with patience that does.

The kernel asks a virtio-blk device for its serial whenever somebody reads it. A device whose other end is dead does not
answer, and who waits can neither be interrupted nor killed: so a child process reads, and is left behind if it hangs.
"""

from __future__ import annotations

import os
import select
import struct

_LENGTH = struct.Struct("!i")
_UNREADABLE = -1
_SIGKILL = 9
"""As POSIX has it; the module signal is slow to import, and an emulated guest feels that."""
_AT_ONCE = 200
"""Files: their paths fit into a pipe's buffer (64 KiB), or the two processes could wait for each other."""


class PatientReader:
    def __init__(self, seconds: float = 3.0) -> None:
        self.seconds = seconds
        self.silent: set[str] = set()
        """Paths whose reading did not end; nobody tries them again."""
        self._child: tuple[int, int, int] | None = None  # process, pipe to it, pipe from it

    def __del__(self) -> None:
        self._leave(hangs=False)

    def read(self, paths: list[str]) -> dict[str, bytes | None]:
        """Path → the file's bytes; null where reading it does not end. What cannot be read is left out."""
        told: dict[str, bytes | None] = {}
        for first in range(0, len(paths), _AT_ONCE):
            batch = paths[first : first + _AT_ONCE]
            while batch:  # whoever hangs costs a child; another one goes on behind it
                batch = self._read(batch, told)
        return told

    def _read(self, paths: list[str], told: dict[str, bytes | None]) -> list[str]:
        """Those that are left when one of them has hung. All are asked for at once, so that two processes do not take
        turns for each."""
        told.update((path, None) for path in paths if path in self.silent)
        paths = [path for path in paths if path not in self.silent]
        if not paths:
            return []
        if self._child is None:
            self._child = _start()
        _process, there, back = self._child
        os.write(there, b"".join(path.encode() + b"\n" for path in paths))
        for number, path in enumerate(paths):
            if not select.select([back], [], [], self.seconds)[0]:
                self.silent.add(path)
                told[path] = None
                self._leave(hangs=True)
                return paths[number + 1 :]
            length = _LENGTH.unpack(_exactly(back, _LENGTH.size))[0]
            if length != _UNREADABLE:
                told[path] = _exactly(back, length)
        return []

    def _leave(self, hangs: bool) -> None:
        if self._child is not None:
            process, there, back = self._child
            self._child = None
            os.close(there)
            os.close(back)
            os.kill(process, _SIGKILL)
            if not hangs:  # one that does ends when its device answers, or never
                os.waitpid(process, 0)


def _start() -> tuple[int, int, int]:
    take, there = os.pipe()
    back, give = os.pipe()
    process = os.fork()
    if process:
        os.close(take)
        os.close(give)
        return process, there, back
    try:
        # Whoever waits for this program's output shall not wait for a child that hangs.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.close(there)
        os.close(back)
        with os.fdopen(take, "rb") as requests:
            for line in requests:
                os.write(give, _answer(line[:-1]))
    finally:
        os._exit(0)


def _answer(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return _LENGTH.pack(_UNREADABLE)
    return _LENGTH.pack(len(data)) + data


def _exactly(stream: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = os.read(stream, length - len(data))
        if not more:
            raise OSError("the process that reads has ended")
        data += more
    return data
