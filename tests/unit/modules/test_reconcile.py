"""The engine with a made-up family: a set of things that can be there, and calls that can fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import (
    ConnectionFailed,
    Error,
    Exists,
    RpcError,
    Timeout,
)
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)


class World:
    """Things by name; ``parent/child`` needs its parent. ``trouble``: what a call for a name ends with."""

    def __init__(self, *things: str) -> None:
        self.things = set(things)
        self.trouble: dict[str, Error] = {}
        self.others: set[str] = set()  # what somebody else makes, at the moment when we try to
        self.batches: list[list[str]] = []

    def pipeline(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        calls = list(calls)
        self.batches.append([f"{method} {params['name']}" for method, params in calls])
        answers: list[Any] = []
        for method, params in calls:
            name = params["name"]
            if name in self.others:
                self.things.add(name)
            if name in self.trouble:
                answers.append(self.trouble[name])
                continue
            (self.things.add if method == "make" else self.things.discard)(name)
            answers.append(True)
        return answers


class Things:
    """Wanted: ``{name, state}``."""

    def __init__(self, **plan: Any) -> None:
        self.extra = plan
        self.reads = 0

    def read(self, executor: Any) -> set[str]:
        self.reads += 1
        return set(executor.things)

    def release(self, executor: Any) -> tuple[int, int]:
        return executor.version

    def plan(self, wanted: Sequence[Any], current: set[str]) -> Plan:
        plan = Plan(**self.extra)
        for item in wanted:
            name = item["name"]
            path = tuple(name.split("/"))
            if name in current and len(path) == 1:
                plan.view[name] = {"there": True}
            if item.get("bad"):
                plan.refusals.append((path, f"{name} is bad"))
            if item.get("state") == "absent":
                if name in current:
                    plan.changes.append(Change("delete", "thing", name, path, None, (("drop", {"name": name}),)))
            elif name not in current:
                call = ("make", {"name": name})
                plan.changes.append(Change("create", "thing", name, path, {"there": True}, (call,), stage=len(path)))
        return plan


def wanted(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def names(entries: list[dict[str, str]]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_a_stage_is_one_batch_and_the_next_waits_for_it() -> None:
    world = World("old")
    outcome = reconcile(Things(), [*wanted("a", "a/1", "a/2", "b"), {"name": "old", "state": "absent"}], world)
    assert world.batches == [["drop old"], ["make a", "make b"], ["make a/1", "make a/2"]]
    assert outcome.before == {"old": {"there": True}}
    assert outcome.after == {"a": {"there": True, "1": {"there": True}, "2": {"there": True}}, "b": {"there": True}}


def test_nothing_to_do_is_one_reading_and_no_call() -> None:
    world, family = World("a"), Things()
    outcome = reconcile(family, wanted("a"), world)
    assert (outcome.changed, world.batches, family.reads) == (False, [], 1)


def test_check_mode_says_the_same_and_calls_nothing() -> None:
    world = World("b")
    predicted = reconcile(Things(), wanted("a", "b", "a/1"), world, check_mode=True)
    assert world.batches == []
    done = reconcile(Things(), wanted("a", "b", "a/1"), world)
    assert predicted.result() == done.result()


def test_a_refusal_stops_everything() -> None:
    world = World()
    with pytest.raises(Refused, match="b is bad; c is bad"):
        reconcile(Things(), [*wanted("a"), {"name": "b", "bad": True}, {"name": "c", "bad": True}], world)
    assert world.batches == []


def test_a_thousand_refusals_are_still_one_line_to_read() -> None:
    with pytest.raises(Refused) as caught:
        reconcile(Things(), [{"name": f"n{i}", "bad": True} for i in range(1000)], World())
    assert str(caught.value).endswith("n4 is bad; and 995 more")
    assert len(caught.value.problems) == 1000


def test_what_depends_on_a_failure_is_not_tried_and_the_rest_is() -> None:
    world = World()
    world.trouble["a"] = RpcError(-12, "Cannot allocate memory", "make", {"name": "a"})
    outcome = reconcile(Things(), wanted("a", "a/1", "b", "b/1"), world)
    assert names(outcome.applied) == ["b", "b/1"]
    assert outcome.failed == [
        {
            "action": "create",
            "kind": "thing",
            "name": "a",
            "reason": "make (name a): Cannot allocate memory (code -12)",
        }
    ]
    assert names(outcome.not_tried) == ["a/1"]
    assert outcome.not_tried[0]["reason"] == "thing a failed"
    assert outcome.after == {"b": {"there": True}}
    assert outcome.summary().startswith("2 applied, 1 failed, 1 not tried: create thing a: make (name a)")


def test_somebody_else_was_faster_is_no_failure_and_what_depended_on_it_is_done() -> None:
    world = World()
    world.others.add("a")
    world.trouble["a"] = Exists(-17, "File exists", "make", {"name": "a"})
    outcome = reconcile(Things(), wanted("a", "a/1", "b"), world)
    assert (outcome.failed, outcome.not_tried) == ([], [])
    assert names(outcome.applied) == ["b", "a/1"]
    assert "somebody else was faster" in outcome.notes[0]
    assert outcome.after == {"a": {"there": True, "1": {"there": True}}, "b": {"there": True}}


def test_exists_in_another_shape_is_a_failure_that_says_so() -> None:
    class Picky(Things):
        def plan(self, wanted: Sequence[Any], current: set[str]) -> Plan:
            plan = super().plan(wanted, current)
            if "a" in current:
                plan.refusals.append((("a",), "a exists with another size"))
            return plan

    world = World()
    world.others.add("a")
    world.trouble["a"] = Exists(-17, "File exists", "make", {"name": "a"})
    outcome = reconcile(Picky(), wanted("a"), world)
    assert outcome.failed[0]["reason"] == "a exists with another size"
    assert outcome.changed is False


def test_no_answer_but_done_counts_as_applied() -> None:
    world = World()
    world.others.add("a")
    world.trouble["a"] = Timeout("/s", "make", 1)
    outcome = reconcile(Things(), wanted("a", "a/1"), world)
    assert names(outcome.applied) == ["a", "a/1"]
    assert "was carried out" in outcome.notes[0]


def test_a_lost_connection_ends_the_work() -> None:
    world = World()
    world.trouble["a"] = ConnectionFailed("/s", "closed the connection")
    outcome = reconcile(Things(), wanted("a", "b", "b/1"), world)
    assert names(outcome.applied) == ["b"]
    assert names(outcome.failed) == ["a"]
    assert names(outcome.not_tried) == ["b/1"]
    assert "closed the connection" in outcome.not_tried[0]["reason"]


def test_when_nothing_can_be_read_afterwards_it_is_said() -> None:
    class Dying(Things):
        def read(self, executor: Any) -> set[str]:
            if self.reads:
                raise ConnectionFailed("/s", "gone")
            return super().read(executor)

    world = World()
    world.trouble["a"] = ConnectionFailed("/s", "closed")
    outcome = reconcile(Dying(), wanted("a", "b"), world)
    assert (names(outcome.failed), names(outcome.applied)) == (["a"], ["b"])
    assert outcome.after == {"b": {"there": True}}
    assert "could not be read" in outcome.notes[0]


def test_a_failure_that_stays_is_not_hidden_by_reading_again() -> None:
    world = World("a")
    world.trouble["a"] = RpcError(-16, "busy", "drop", {"name": "a"})
    outcome = reconcile(Things(), [{"name": "a", "state": "absent"}], world)
    assert (outcome.changed, names(outcome.failed)) == (False, ["a"])
    assert outcome.after == {"a": {"there": True}}


def test_what_a_release_does_not_have_is_refused_before_anything_is_changed() -> None:
    world = World()
    world.version = (24, 5)
    with pytest.raises(Refused, match=r"uuid needs release 24\.09, this is 24\.05"):
        reconcile(Things(since=[("uuid", "24.09")]), wanted("a"), world)
    assert world.batches == []
    world.version = (24, 9)
    assert reconcile(Things(since=[("uuid", "24.09")]), wanted("a"), world).changed


def test_old_releases_get_the_changes_of_one_object_one_at_a_time() -> None:
    world = World("a", "b")
    things = wanted("a/1", "a/2", "b/1", "a/3")
    world.version = (23, 9)
    reconcile(Things(serial_before="24.05"), things, world)
    assert world.batches == [["make a/1", "make b/1"], ["make a/2"], ["make a/3"]]
    world = World("a", "b")
    world.version = (24, 5)
    reconcile(Things(serial_before="24.05"), things, world)
    assert world.batches == [["make a/1", "make a/2", "make b/1", "make a/3"]]


def test_duplicates_are_named_with_both_places() -> None:
    items = [{"name": "a"}, {"name": "b"}, {"name": "a"}, {"name": None}, {"name": None}]
    with pytest.raises(Refused, match=r"^bdevs\[0\] and bdevs\[2\] have the same name: a$"):
        refuse_duplicates(items, lambda item: item["name"], "bdevs", "name")
