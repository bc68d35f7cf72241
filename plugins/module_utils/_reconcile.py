# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one engine: what is wanted against what is there → ordered changes → applied, or predicted.

A *family* (see ``_resources.py``) knows a kind of object: how to read it and, as a pure function, which changes lead
from what was read to what is wanted. The engine knows the rest, once for all families: stages, pipelining, check mode,
diff, partial failure, and what to make of a failure when somebody else was faster.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Protocol

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import ConnectionFailed, Error, RpcError, Timeout

Path = tuple  # of str: where a thing is in the view, such as ("nqn.2022-06.io.ipdk:st1:ipu1", "namespaces", "3")


@dataclass(frozen=True)
class Change:
    """One step. ``calls`` are made one after another; changes of one ``stage`` do not depend on each other.

    ``path`` says where in the view the thing is and ``after`` what is there when the change is made (None: nothing).
    A change is not tried when one at its own path, or above it, or at one of ``needs``, has failed before. ``hint``:
    what is usually behind a failure, for where SPDK's own message says little. ``blocked``: why this change fails now,
    where that can be seen beforehand; no call is made.
    """

    action: str  # create, update, delete
    kind: str
    name: str
    path: Path
    after: Any
    calls: tuple[tuple[str, Mapping[str, Any] | None], ...]
    stage: int = 0
    needs: tuple[Path, ...] = ()
    hint: str = ""
    blocked: str = ""

    def entry(self, reason: str | None = None) -> dict[str, str]:
        """The change as data, for a module's result."""
        entry = {"action": self.action, "kind": self.kind, "name": self.name}
        if reason is not None:
            entry["reason"] = reason
        return entry


@dataclass
class Plan:
    """What a family makes of wanted and current state.

    ``view``: the declared objects as they are now, in plain data fit for a diff; a thing that is not there is left out.
    ``refusals``: what cannot be reached in place or would destroy something, as ``(path, sentence)``; one stops all.
    ``since``: what the changes use that not every release has, as ``(feature, first release)``.
    ``serial_before``: releases before this one take only one change at a time of the things below one ``path[0]``.
    ``notes``: what the operator should know although nothing is wrong.
    """

    view: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    refusals: list[tuple[Path, str]] = field(default_factory=list)
    since: list[tuple[str, str]] = field(default_factory=list)
    serial_before: str = ""
    notes: list[str] = field(default_factory=list)


class Executor(Protocol):
    """What makes the calls: a ``_jsonrpc.Client``, or anything with its ``pipeline``."""

    def pipeline(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        """Results, or instances of ``_jsonrpc.Error``, in the order of the calls."""


class Family(Protocol):
    """A kind of object."""

    def read(self, executor: Any) -> Any:
        """What is there now. Raises ``_jsonrpc.Error``: no answer is unknown, never empty."""

    def plan(self, wanted: Sequence[Mapping[str, Any]], current: Any) -> Plan:
        """Pure: what leads from ``current`` to ``wanted``, and nothing when there is nothing to do."""

    def release(self, executor: Any) -> tuple[int, int]:
        """The release that answers, such as (26, 5). Asked only when a plan depends on it."""


class Refused(Exception):
    """What is wanted cannot be done; nothing was changed. ``problems`` has one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(_listed(self.problems))


def _listed(sentences: Sequence[str], most: int = 5) -> str:
    """One line that a person still reads: a thousand disks can fail for one reason."""
    more = [f"and {len(sentences) - most} more"] if len(sentences) > most else []
    return "; ".join([*sentences[:most], *more])


@dataclass
class Outcome:
    """What was done, or in check mode would be."""

    before: dict[str, Any]
    after: dict[str, Any]
    applied: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    not_tried: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    """``path[0]`` of what failed or was not tried: the objects that are not as wanted."""

    @property
    def changed(self) -> bool:
        return bool(self.applied)

    def summary(self) -> str:
        """One line for a failure's message; empty when nothing failed."""
        if not self.failed:
            return ""
        parts = ["{} {} {}: {}".format(e["action"], e["kind"], e["name"], e["reason"]) for e in self.failed]
        counts = f"{len(self.applied)} applied, {len(self.failed)} failed, {len(self.not_tried)} not tried"
        return f"{counts}: {_listed(parts)}"

    def result(self) -> dict[str, Any]:
        """The part of a module's result that every family has. (``failed`` at the top is Ansible's own.)"""
        return {
            "changed": self.changed,
            "outcome": {"applied": self.applied, "failed": self.failed, "not_tried": self.not_tried},
            "diff": {"before": self.before, "after": self.after},
        }


def refuse_duplicates(
    items: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Hashable], option: str, what: str
) -> None:
    """Raise Refused where two items have one identity, naming both: ``bdevs[0] and bdevs[3] have the same name: a``.

    A ``key`` of None is no identity.
    """
    seen: dict[Hashable, int] = {}
    problems = []
    for index, item in enumerate(items):
        identity = key(item)
        if identity is None:
            continue
        if identity in seen:
            first = f"{option}[{seen[identity]}]"
            problems.append(f"{first} and {option}[{index}] have the same {what}: {identity}")
        else:
            seen[identity] = index
    if problems:
        raise Refused(problems)


def reconcile(
    family: Family,
    wanted: Sequence[Mapping[str, Any]],
    executor: Executor,
    check_mode: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Outcome:
    """Bring ``family`` to ``wanted``. Raises Refused (nothing was changed) and whatever ``read`` raises.

    ``progress`` is called after each stage with how many changes are done, of how many, and the name of the last one.
    """
    plan = family.plan(wanted, family.read(executor))
    if plan.refusals:
        raise Refused([sentence for _path, sentence in plan.refusals])
    serial = False
    if plan.since or (plan.serial_before and len(plan.changes) > 1):
        release = family.release(executor)
        _refuse_too_old(plan, release)
        serial = release < _as_release(plan.serial_before)
    run = _Run(serial, progress)
    if check_mode:
        # What blocks a change may be gone by the time that it is made.
        run.apply([replace(change, blocked="") for change in plan.changes], _Obliging())
        after = _view_after(plan.view, run.applied)
        return Outcome(plan.view, after, [change.entry() for change in run.applied], notes=plan.notes)

    run.apply(plan.changes, executor)
    outcome = Outcome(plan.view, {})
    if run.failed:
        outcome.after = _look_again(family, wanted, executor, run, plan.view)
    else:
        outcome.after = _view_after(plan.view, run.applied)
    outcome.notes = plan.notes + run.notes
    outcome.applied = [change.entry() for change in run.applied]
    outcome.failed = [change.entry(reason) for change, reason in run.failed_reasons()]
    outcome.not_tried = [change.entry(reason) for change, reason in run.not_tried]
    outcome.open = {change.path[0] for change, _why in [*run.failed, *run.not_tried]}
    return outcome


def _as_release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")) if text else ()


def _refuse_too_old(plan: Plan, release: tuple[int, int]) -> None:
    missing = {
        f"{feature} needs release {since}, this is {release[0]}.{release[1]:02d}"
        for feature, since in plan.since
        if _as_release(since) > release
    }
    if missing:
        raise Refused(sorted(missing))


class _Obliging:
    """In check mode the executor: every call would succeed, so that the order of a run is foreseen, too."""

    def pipeline(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        return [None for _call in calls]


class _Run:
    """The fate of each change while stages are applied."""

    def __init__(self, serial: bool, progress: Callable[[int, int, str], None] | None = None) -> None:
        self.serial = serial
        self.progress = progress
        self.applied: list[Change] = []
        self.failed: list[tuple[Change, Error]] = []
        self.not_tried: list[tuple[Change, str]] = []
        self.notes: list[str] = []
        self.sentences: dict[Path, str] = {}
        self.obstacles: dict[Path, str] = {}  # what may not be built upon, and why
        self.lost = ""  # why there is nobody any more to talk to

    def failed_reasons(self) -> list[tuple[Change, str]]:
        return [(change, self.sentences.get(change.path) or _reason(change, error)) for change, error in self.failed]

    def apply(self, changes: Sequence[Change], executor: Executor) -> None:
        for stage in sorted({change.stage for change in changes}):
            alive = []
            for change in changes:
                if change.stage == stage:
                    obstacle = self._obstacle(change)
                    if obstacle:
                        self.not_tried.append((change, obstacle))
                        self.obstacles.setdefault(change.path, f"{change.kind} {change.name} was not tried")
                    elif change.blocked:
                        self.failed.append((change, Error(change.blocked)))
                        self.obstacles.setdefault(change.path, f"{change.kind} {change.name} failed")
                    else:
                        alive.append(change)
            self._stage(alive, executor)
            if self.progress and alive:
                self.progress(len(self.applied), len(changes), alive[-1].name)

    def _stage(self, alive: list[Change], executor: Executor) -> None:
        if self.serial:
            groups: dict[str, list[Change]] = {}
            for change in alive:
                groups.setdefault(change.path[0], []).append(change)
            for together in itertools.zip_longest(*groups.values()):
                self._pipeline([change for change in together if change is not None], executor)
        else:
            self._pipeline(alive, executor)

    def _pipeline(self, alive: list[Change], executor: Executor) -> None:
        turn = 0
        while alive:
            self.applied += [change for change in alive if len(change.calls) <= turn]
            alive = [change for change in alive if len(change.calls) > turn]
            try:
                answers = executor.pipeline([change.calls[turn] for change in alive]) if alive else []
            except Error as error:
                answers = [error] * len(alive)
            for change, answer in zip(alive, answers):
                if isinstance(answer, Error):
                    self.failed.append((change, answer))
                    self.obstacles.setdefault(change.path, f"{change.kind} {change.name} failed")
                    if isinstance(answer, (ConnectionFailed, Timeout)):
                        self.lost = str(answer)
            alive = [change for change, answer in zip(alive, answers) if not isinstance(answer, Error)]
            turn += 1

    def _obstacle(self, change: Change) -> str:
        if self.lost:
            return self.lost
        for path in (change.path, *change.needs):
            for length in range(1, len(path) + 1):
                if path[:length] in self.obstacles:
                    return self.obstacles[path[:length]]
        return ""


def _reason(change: Change, error: Error) -> str:
    return f"{error}: {change.hint}" if change.hint and isinstance(error, RpcError) else str(error)


def _look_again(
    family: Family, wanted: Sequence[Mapping[str, Any]], executor: Executor, run: _Run, before: dict[str, Any]
) -> dict[str, Any]:
    """After a failure, read again: a call without an answer may have been carried out, somebody may have been faster.

    A failed change that is no longer needed is no failure; what was not tried because of it is tried now.
    Returns what is there at the end.
    """
    try:
        plan = family.plan(wanted, family.read(executor))
    except Error as error:
        run.notes.append(f"What is there now could not be read: {error}")
        return _view_after(before, run.applied)
    run.sentences.update(plan.refusals)
    open_paths = {change.path for change in plan.changes} | set(run.sentences)
    settled = [(change, error) for change, error in run.failed if change.path not in open_paths]
    run.failed = [(change, error) for change, error in run.failed if change.path in open_paths]
    for change, error in settled:
        what = f"{change.action} {change.kind} {change.name}"
        if isinstance(error, (ConnectionFailed, Timeout)):
            run.applied.append(change)
            run.notes.append(f"{what}: it was carried out, though: {error}")
        else:
            run.notes.append(f"{what}: it is as wanted although the call failed, somebody else was faster: {error}")
    done_before = len(run.applied)
    if settled and run.not_tried:
        waiting = {change.path for change, _reason in run.not_tried}
        run.not_tried = [(change, reason) for change, reason in run.not_tried if change.path in run.sentences]
        run.lost = ""
        run.obstacles = {change.path: f"{change.kind} {change.name} failed" for change, _error in run.failed}
        run.apply([change for change in plan.changes if change.path in waiting], executor)
    return _view_after(plan.view, run.applied[done_before:])


def _view_after(view: Mapping[str, Any], changes: Iterable[Change]) -> dict[str, Any]:
    after = copy.deepcopy(dict(view))
    for change in changes:
        place = after
        for key in change.path[:-1]:
            place = place.setdefault(key, {})
        if change.after is None:
            place.pop(change.path[-1], None)
        else:
            place[change.path[-1]] = copy.deepcopy(change.after)
    return after
