"""Recorded histories of a good build, each spoiled in one place: the checker that looks there must say no.

What small hand-written histories can not show: that a checker still sees one wrong line among a thousand real ones.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.checkers import CHECKERS
from chaos.checkers.final import part
from chaos.history import read_run
from chaos.records import FAIL, OK, Event
from chaos.seams import Finished
from tests.chaos.test_recorded import BUDGET_S, KEPT, expected_of

pytestmark = pytest.mark.req("CH-5", "CH-6")

GOOD = [kept for kept in KEPT if set(expected_of(kept)["verdicts"].values()) == {"yes"}][:2]

Spoil = Callable[[random.Random, list[Event], Any], None]


def whole(run: Finished, value: Any) -> Any:
    """A final state with its parts in their places."""
    value = part(run, value)
    if isinstance(value, dict):
        return {name: whole(run, held) for name, held in value.items()}
    return value


def some(rng: random.Random, events: list[Event], condition: Callable[[Event], bool]) -> int:
    """The number of one of the events like this."""
    return rng.choice([n for n, event in enumerate(events) if condition(event)])


def workspace_of(final: Any) -> Any:
    return max(final["workspaces"].values(), key=lambda workspace: len(workspace["log"]))


def a_stale_read(rng: random.Random, events: list[Event], final: Any) -> None:
    """A read gets the answer of a read of the same key that was over before a change that was over before it."""

    def later(event: Event) -> bool:
        return event.op == "read" and event.kind == OK and event.level == "linearizable" and event.value is not None

    reads = [n for n, e in enumerate(events) if later(e) and e.workload == "register"]
    called: dict[str, int] = {}
    since: dict[int, int] = {}
    for number, event in enumerate(events):
        if event.kind == "invoke":
            called[event.process] = event.at_ns
        since[number] = called[event.process]
    pairs = [
        (old, new)
        for new in reads
        for old in reads
        if events[old].key == events[new].key
        and any(
            e.kind == OK
            and e.op == "write"
            and e.key == events[new].key
            and e.at_ns < since[new]
            and e.extra["version"] > events[old].extra["version"]
            for e in events[old:new]
        )
    ]
    old, new = rng.choice(pairs)
    version = {**events[new].extra, "version": events[old].extra["version"]}
    events[new] = replace(events[new], value=events[old].value, extra=version)


def a_lost_write(rng: random.Random, events: list[Event], final: Any) -> None:
    number = some(rng, events, lambda e: e.workload == "register" and e.op == "write" and e.kind == OK)
    history = final["hub"]["metadata"][events[number].key]["history"]
    history[:] = [held for held in history if held["version"] != events[number].extra["version"]]


def a_write_applied_twice(rng: random.Random, events: list[Event], final: Any) -> None:
    history = rng.choice([key["history"] for name, key in final["hub"]["metadata"].items() if name[0] == "r"])
    history.insert(0, {**rng.choice(history), "version": history[0]["version"] + 1})


def an_increment_that_made_what_another_made(rng: random.Random, events: list[Event], final: Any) -> None:
    number = some(rng, events, lambda e: e.op == "increment" and e.kind == OK and e.value > 1)
    events[number] = replace(events[number], value=events[number].value - 1)


def a_lost_element(rng: random.Random, events: list[Event], final: Any) -> None:
    number = some(rng, events, lambda e: e.op == "add" and e.kind == OK)
    del final["hub"]["metadata"][f"{events[number].key}-{events[number].value}"]


def a_listing_without_an_element(rng: random.Random, events: list[Event], final: Any) -> None:
    """The first element of an epoch is known long before the last listing of it."""
    last = max(n for n, e in enumerate(events) if e.op == "read_all" and e.kind == OK and len(e.value) > 20)
    first = next(e.value for e in events if e.op == "add" and e.kind == OK and e.key == events[last].key)
    events[last] = replace(events[last], value=[number for number in events[last].value if number != first])


def two_creators(rng: random.Random, events: list[Event], final: Any) -> None:
    number = some(rng, events, lambda e: e.op == "create" and e.kind == FAIL and e.error == "EEXIST")
    events[number] = replace(events[number], kind=OK, error="")


def appended(final: Any) -> Any:
    files = workspace_of(final)["files"]
    return max((there for path, there in files.items() if path.startswith("append/")), key=lambda f: f["size"])


def a_lost_append(rng: random.Random, events: list[Event], final: Any) -> None:
    there = appended(final)
    there["records"].pop(rng.randrange(len(there["records"])))
    there["size"] -= 32


def an_append_twice(rng: random.Random, events: list[Event], final: Any) -> None:
    there = appended(final)
    there["records"].append(rng.choice(there["records"]))
    there["size"] += 32


def two_appends_in_the_other_order(rng: random.Random, events: list[Event], final: Any) -> None:
    records = appended(final)["records"]
    at = rng.randrange(len(records) - 1)
    records[at], records[at + 1] = records[at + 1], records[at]


def a_torn_append(rng: random.Random, events: list[Event], final: Any) -> None:
    records = appended(final)["records"]
    records[rng.randrange(len(records))] = "!00" + "20" * 31


def a_log_record_that_nobody_asked_for(rng: random.Random, events: list[Event], final: Any) -> None:
    rng.choice(workspace_of(final)["log"])["client_seq"] += 10_000


def an_acknowledged_operation_at_another_index(rng: random.Random, events: list[Event], final: Any) -> None:
    number = some(rng, events, lambda e: e.workload == "files" and e.kind == OK and "log_index" in e.extra)
    shifted = {**events[number].extra, "log_index": events[number].extra["log_index"] + 1}
    events[number] = replace(events[number], extra=shifted)


def a_file_that_differs_on_one_node(rng: random.Random, events: list[Event], final: Any) -> None:
    tree = rng.choice(list(workspace_of(final)["tree"].values()))
    tree[rng.choice([path for path, there in tree.items() if there["kind"] == "file"])]["blake3"] = "00"


def a_name_that_one_node_lacks(rng: random.Random, events: list[Event], final: Any) -> None:
    tree = rng.choice(list(workspace_of(final)["tree"].values()))
    del tree[rng.choice(list(tree))]


def a_root_that_differs(rng: random.Random, events: list[Event], final: Any) -> None:
    workspace_of(final)["root"][rng.choice(list(final["nodes"]))] = "00" * 32


def a_digest_that_differs(rng: random.Random, events: list[Event], final: Any) -> None:
    final["nodes"][rng.choice(list(final["nodes"]))]["digest"] = "00" * 32


def an_index_from_the_past(rng: random.Random, events: list[Event], final: Any) -> None:
    late = events[len(events) // 2 :]
    number = some(rng, late, lambda e: e.kind == OK and e.op in ("write", "add", "append") and "raft_index" in e.extra)
    event = late[number]
    events[events.index(event)] = replace(event, extra={**event.extra, "raft_index": 1})


SPOILS: list[tuple[Spoil, tuple[str, ...]]] = [
    (a_stale_read, ("register", "levels")),
    (a_lost_write, ("exactly_once",)),
    (a_write_applied_twice, ("exactly_once",)),
    (an_increment_that_made_what_another_made, ("counter", "exactly_once")),
    (a_lost_element, ("set",)),
    (a_listing_without_an_element, ("set",)),
    (two_creators, ("paths",)),
    (a_lost_append, ("append_order", "workspace")),
    (an_append_twice, ("append_order", "workspace")),
    (two_appends_in_the_other_order, ("append_order", "workspace")),
    (a_torn_append, ("append_order", "workspace")),
    (a_log_record_that_nobody_asked_for, ("exactly_once",)),
    (an_acknowledged_operation_at_another_index, ("exactly_once",)),
    (a_file_that_differs_on_one_node, ("workspace",)),
    (a_name_that_one_node_lacks, ("workspace",)),
    (a_root_that_differs, ("workspace",)),
    (a_digest_that_differs, ("workspace",)),
    (an_index_from_the_past, ("index_order",)),
]


@pytest.fixture(scope="module", params=GOOD, ids=lambda path: path.name)
def recorded(request: pytest.FixtureRequest) -> Finished:
    run = read_run(request.param, BUDGET_S)
    return replace(run, final=whole(run, dict(run.final)))


def test_there_is_a_good_recorded_history() -> None:
    assert GOOD


@pytest.mark.parametrize(("spoil", "checkers"), SPOILS, ids=lambda p: getattr(p, "__name__", ""))
@pytest.mark.parametrize("seed", range(1))
def test_one_wrong_place_is_seen(recorded: Finished, spoil: Spoil, checkers: tuple[str, ...], seed: int) -> None:
    print(f"seed {seed}")
    events, final = list(recorded.events), copy.deepcopy(json.loads(json.dumps(recorded.final)))
    spoil(random.Random(seed), events, final)
    for name in checkers:
        verdict = CHECKERS[name].check(replace(recorded, events=events, final=final))
        assert verdict.outcome == "no", verdict
