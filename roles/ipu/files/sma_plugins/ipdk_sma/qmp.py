# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small QMP client: one connection, pipelined commands, bounded waits for events.

Source: QEMU's QMP specification. SPDK's own client raises the same error for a QEMU that is not there, a command that
QEMU refused and an event that did not come; a device manager has to tell them apart.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

Command = tuple[str, dict[str, Any]]


class QmpError(Exception):
    """Talking to QEMU failed."""


class QmpAbsent(QmpError):
    """Nobody listens: no QEMU runs behind this address."""


class QmpSilent(QmpError):
    """No answer within the time, or the connection broke: nobody knows what QEMU did."""


class QmpClosed(QmpSilent):
    """The other end closed the connection."""


class QmpRefused(QmpError):
    """QEMU answered with an error; the text is QEMU's."""


class Qmp:
    """A connection to a QMP monitor on TCP, as a context manager.

    `timeout`: seconds that connecting, and each command, may take. A monitor serves one client at a time: with a second
    one there, the greeting does not come and QmpSilent is raised.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._where = f"{host}:{port}"
        self._address = (host, port)
        self._timeout = timeout
        self._received = b""
        self._events: list[dict[str, Any]] = []
        self._last_id = 0
        self.version: tuple[int, int] = (0, 0)

    def __enter__(self) -> Qmp:
        try:
            self._socket = socket.create_connection(self._address, timeout=self._timeout)
        except ConnectionRefusedError:
            raise QmpAbsent(f"no QEMU listens on {self._where}") from None
        except OSError as error:
            raise QmpSilent(f"cannot reach QEMU on {self._where}: {error}") from None
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._greet()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_unused: object) -> None:
        self._socket.close()

    def _greet(self) -> None:
        try:
            greeting = self._read(time.monotonic() + self._timeout)
        except QmpClosed:
            # One that dies just now, or none behind what passes the connection on to it (`monitor`).
            raise QmpAbsent(f"no QEMU listens behind {self._where}") from None
        if greeting is None or "QMP" not in greeting:
            raise QmpSilent(f"QEMU on {self._where} does not greet: does another client hold its monitor?")
        qemu = greeting["QMP"]["version"]["qemu"]
        self.version = (qemu["major"], qemu["minor"])
        self.run(("qmp_capabilities", {}))

    def run(self, *commands: Command) -> list[Any]:
        """Run all commands, sent at once; their return values in order. Raises QmpRefused for the first one refused,
        after all were answered."""
        answers = self.try_all(*commands)
        for answer in answers:
            if isinstance(answer, QmpRefused):
                raise answer
        return answers

    def try_all(self, *commands: Command) -> list[Any]:
        """Like `run`, but a refused command's place holds the QmpRefused."""
        first = self._last_id + 1
        self._last_id += len(commands)
        self._send(
            b"".join(
                json.dumps({"execute": name, "arguments": arguments, "id": first + index}).encode() + b"\n"
                for index, (name, arguments) in enumerate(commands)
            )
        )
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + self._timeout
        while len(answers) < len(commands):
            message = self._read(deadline)
            if message is None:
                unanswered = commands[len(answers)][0]
                raise QmpSilent(f"QEMU on {self._where} has not answered {unanswered} within {self._timeout:g} s")
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                answers[message.get("id", first)] = QmpRefused(message["error"].get("desc", "refused without a reason"))
            elif "return" in message:
                answers[message["id"]] = message["return"]
        return [answers[first + index] for index in range(len(commands))]

    def wait_event(self, names: tuple[str, ...], device: str, deadline: float) -> str | None:
        """The name of the first event among `names` about `device`; None when it has not come by `deadline`
        (time.monotonic). Events that came since the connection was made count."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] in names and event.get("data", {}).get("device") == device:
                    return event["event"]
            message = self._read(deadline)
            if message is None:
                return None
            if "event" in message:
                self._events.append(message)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as error:
            raise QmpSilent(f"the connection to QEMU on {self._where} broke: {error}") from None

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None when there is none by `deadline`."""
        while b"\n" not in self._received:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            try:
                self._socket.settimeout(remaining)
                # QEMU answers in small segments and holds each back until the one before is acknowledged.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            except OSError as error:
                raise QmpSilent(f"the connection to QEMU on {self._where} broke: {error}") from None
            if not data:
                raise QmpClosed(f"QEMU on {self._where} closed the connection")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        try:
            message = json.loads(line)
        except ValueError:
            raise QmpSilent(f"what answers on {self._where} does not speak QMP") from None
        if not isinstance(message, dict):
            raise QmpSilent(f"what answers on {self._where} does not speak QMP")
        return message
