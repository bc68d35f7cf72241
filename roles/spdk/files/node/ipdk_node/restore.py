# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply a node's declaration to its SPDK, again and again until all of it is there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _declaration, _document
from ansible_collections.ipdk.storage.plugins.module_utils._declaration import SECTIONS, Section
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, ConnectionFailed, Error, RpcError
from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_subsystems import Subsystems
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Family, Refused, reconcile

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0  # bounds how long a disk waits once its peer is back
#: Seconds that a subsystem's listeners wait for namespaces that do not come; then the others are served without them.
GRACE = 10.0
#: Seconds that SPDK may take until it answers before that is said.
STARTING = 5.0
RPC_TIMEOUT = 60.0
#: By section: items as their family works with them.
Items = dict[str, Sequence[Any]]
DISKS = ("vhost_blk", "nbd")
"""The sections whose items are on the bdevs of peers."""


def say(text: str) -> None:
    print(f"ipdk_node: {text}", file=sys.stderr, flush=True)


@dataclass
class Attempt:
    """What came of applying a part: the identities that are still missing, by section; why; how much was changed."""

    missing: dict[str, set[str]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    made: int = 0


class Restore:
    """Brings back what a declaration says. What has been there once is not made again: meanwhile somebody may have
    removed it, and the declaration too, which is read anew for each round."""

    def __init__(self, socket: str, path: str) -> None:
        self.socket = socket
        self.path = path
        self._missing: dict[str, set[str]] | None = None  # by section, the identities; None: everything
        self._reasons: list[str] = []
        self._made = 0

    def run(self, stop: threading.Event, seconds: float | None = None) -> bool:
        """Whether all is there. Ends when it is, when ``stop`` is set, or when the time is over."""
        begin = time.monotonic()
        deadline = None if seconds is None else begin + seconds
        pause = SHORTEST_PAUSE
        said: list[str] = []
        while not stop.is_set():
            made = self._made
            try:
                done = self._round(begin)
            except ConnectionFailed as error:
                # Starting takes SPDK a moment, which is not worth a word.
                done, self._reasons = False, [str(error)] if time.monotonic() - begin > STARTING else []
                self._missing = None  # another process has nothing of what this one had
            except (Error, Refused, ValueError) as error:
                done, self._reasons = False, [str(error)]
            if done:
                spent = time.monotonic() - begin
                say(f"all that is declared is there after {spent:.1f} s ({self._made} changes)")
                return True
            if self._reasons != said:
                said = self._reasons
                for reason in said[:10]:
                    say(f"still missing: {reason}")
                if len(said) > 10:
                    say(f"still missing: {len(said) - 10} more")
            pause = SHORTEST_PAUSE if self._made > made else min(pause * 1.5, LONGEST_PAUSE)
            if deadline is not None and time.monotonic() + pause > deadline:
                say(f"gave up after {seconds:g} s; the next start tries again")
                return False
            stop.wait(pause)
        return False

    def _round(self, begin: float) -> bool:
        document = _document.load(self.path)
        if document is None:
            say(f"there is no {self.path}: nothing to restore")
            return True
        items, wrong = _checked(document)
        parts = [part for part in map(self._left, _parts(items)) if part]
        with ThreadPoolExecutor(max(1, len(parts))) as together:
            attempts = list(together.map(lambda part: self._apply(part, begin), parts))
        self._missing = {
            section.key: set().union(*(attempt.missing.get(section.key, ()) for attempt in attempts))
            for section in SECTIONS
        }
        self._reasons = wrong + [reason for attempt in attempts for reason in attempt.reasons]
        self._made += sum(attempt.made for attempt in attempts)
        return not wrong and not any(self._missing.values())

    def _left(self, part: Items) -> Items:
        """What is left to do of a part."""
        left = {section.key: [i for i in part[section.key] if self._is_missing(section, i)] for section in SECTIONS}
        return {key: items for key, items in left.items() if items}

    def _is_missing(self, section: Section, item: Any) -> bool:
        return self._missing is None or item[section.identity] in self._missing.get(section.key, ())

    def _apply(self, part: Items, begin: float) -> Attempt:
        """Apply a part, on a connection of its own."""
        attempt = Attempt()
        with Client(self.socket, RPC_TIMEOUT) as client:
            client.call("framework_wait_init")
            for section in SECTIONS:
                if section.key in part:
                    family = self._family(section, time.monotonic() - begin < GRACE)
                    attempt.missing[section.key] = self._converge(section, family, part[section.key], client, attempt)
        return attempt

    @staticmethod
    def _family(section: Section, patient: bool) -> Family:
        return Subsystems(whole=patient) if section.family is Subsystems else section.family()

    def _converge(
        self, section: Section, family: Family, wanted: Sequence[Any], client: Client, attempt: Attempt
    ) -> set[str]:
        """Apply one section; the identities of what is not as wanted then."""
        try:
            outcome = reconcile(family, wanted, client)
        except RpcError as error:
            # What is there cannot even be read; the other sections can.
            attempt.reasons.append(str(error))
            return {item[section.identity] for item in wanted}
        except Refused as refused:
            if len(wanted) == 1:
                attempt.reasons += refused.problems
                return {wanted[0][section.identity]}
            # A refusal stops a whole list: one by one, it stops nothing else.
            return set().union(*(self._converge(section, family, [item], client, attempt) for item in wanted))
        attempt.made += len(outcome.applied)
        attempt.reasons += [f"{entry['kind']} {entry['name']}: {entry['reason']}" for entry in outcome.failed]
        made = {entry["name"] for entry in outcome.applied if entry["kind"] == "bdev" and entry["action"] == "create"}
        empty = [item["name"] for item in wanted if item.get("type") == "malloc" and item["name"] in made]
        if empty:
            say(f"warning: malloc bdevs live in memory and have come back empty: {', '.join(empty)}")
        return outcome.open


def _parts(items: Items) -> list[Items]:
    """The items, divided into what does not depend on each other: each peer with the disks that are on it, and the
    rest. A peer that does not answer takes its own time and nobody else's."""
    rest = {**items, "controllers": [], **{section: [] for section in DISKS}}
    nothing: Items = dict.fromkeys(items, ())
    peers = {
        peer["name"]: {**nothing, "controllers": [peer], **{section: [] for section in DISKS}}
        for peer in items["controllers"]
    }
    for section in DISKS:
        for disk in items[section]:
            peers.get(disk["bdev"].rpartition("n")[0], rest)[section].append(disk)
    return [rest, *peers.values()]


def _checked(document: Any) -> tuple[Items, list[str]]:
    """The document's items, and what is wrong with it. A section with a mistake is left out item by item."""
    try:
        return _declaration.check(document), []
    except Refused as refused:
        problems = refused.problems
    items: dict[str, list[Any]] = {section.key: [] for section in SECTIONS}
    for section in SECTIONS:
        given = document.get(section.key)
        for item in given if isinstance(given, list) else ():
            check: Callable[[Any], dict[str, list[Any]]] = _declaration.check
            try:
                items[section.key] += check({section.key: [item]})[section.key]
            except Refused:
                continue  # the whole document's problems say it, with its place in the list
    return items, problems
