"""Hazards one by one: what is one, what is none, and where it is told (WS-46)."""

from __future__ import annotations

import sys

import pytest

from hypercluster.limits import HAZARD_WINDOW_BYTES_MAX, HAZARD_WINDOW_OPS
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord
from hypercluster.state_machine.coordination.events import HazardEvent
from hypercluster.state_machine.outcome import FileOutcome, HazardFound
from hypercluster.state_machine.workspace import hazard_list
from hypercluster.state_machine.workspace.hazard_list import hazard_steps
from hypercluster.state_machine.workspace.hazards import (
    CONCURRENT_RENAME,
    OVERLAPPING_WRITE,
    WRITE_AFTER_UNLINK,
    read_window,
)
from hypercluster.state_machine.workspace.state import open_workspace
from hypercluster.values import ClientId
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Mirror, Sent, Site

ANN, BOB = ClientId(b"client-------ann"), ClientId(b"client-------bob")


@pytest.fixture
def site() -> Site:
    made = Site()
    made.found()
    return made


def does(site: Site, client: ClientId, command: Command, worker: str = "worker-1", agent: str = "") -> FileOutcome:
    outcome = site.mixed(Sent(command, client, worker, agent))[0]
    assert outcome.reason == 0, outcome
    return outcome


def found(site: Site, client: ClientId, command: Command) -> HazardFound | None:
    return does(site, client, command).hazard


@pytest.mark.req("WS-46")
def test_a_hazard_stands_in_the_answer_the_op_log_and_the_event(site: Site) -> None:
    inode_id = site.file(b"a")
    mirror = Mirror(site)
    first = does(site, ANN, ops.write(inode_id, 0, b"first"), worker="host-1", agent="ann")
    second = does(site, BOB, ops.write(inode_id, 4, b"second"), worker="host-2", agent="bob")
    assert first.hazard is None
    assert second.hazard == HazardFound(OVERLAPPING_WRITE, first.log_index)
    assert site.events == [
        HazardEvent(
            OVERLAPPING_WRITE, first.log_index, second.log_index, inode_id, "host-2", "bob", "host-1", "ann", b"a"
        )
    ]
    record = LogBatch.FromString(site.batches[-1]).records[0]
    assert (record.hazard.kind, record.hazard.conflicting_log_index) == (OVERLAPPING_WRITE, first.log_index)
    assert record.SerializeToString(deterministic=True) in site.batches[-1]
    assert LogRecord.FromString(record.SerializeToString()) == record
    mirror.follow(site)  # a worker's root does not depend on it


@pytest.mark.req("WS-46")
def test_the_window_is_as_many_operations_as_the_limit_says(site: Site) -> None:
    near, far = site.file(b"near"), site.file(b"far")
    does(site, ANN, ops.write(far, 0, b"x"))
    does(site, ANN, ops.write(near, 0, b"x"))
    earlier = site.header.log_index
    site.entry(*(ops.sync(ROOT) for _ in range(HAZARD_WINDOW_OPS - 1)))
    assert found(site, BOB, ops.write(near, 0, b"y")) == HazardFound(OVERLAPPING_WRITE, earlier)
    assert found(site, BOB, ops.write(far, 0, b"y")) is None


@pytest.mark.req("WS-46")
@pytest.mark.parametrize("cold", [False, True])
def test_names_of_any_length_fit_in_the_memory_of_a_window(site: Site, cold: bool) -> None:
    """Measured, and the same window whether it was followed or read."""
    long = [bytes([65 + number]) * 250 for number in range(2)]
    site.file(long[0])
    first = does(site, ANN, ops.rename(ROOT, long[0], ROOT, long[1])).log_index
    for number in range(1, HAZARD_WINDOW_OPS):
        worker, agent = f"{number:0>200}", f"{number:0>128}"
        client = ClientId(b"client------%04d" % number)
        does(site, client, ops.rename(ROOT, long[number % 2], ROOT, long[(number + 1) % 2]), worker, agent)
    workspace = open_workspace(site.overlay, site.workspace_id)
    assert workspace is not None and workspace.window is not None
    touches = list(workspace.window._touches)
    assert touches[0].log_index > first, "the oldest had to go"
    seen: set[int] = set()
    assert memory_of([touches, workspace.window._by_key], seen) < HAZARD_WINDOW_BYTES_MAX
    if cold:
        again = read_window(site.store, site.workspace_id, (), site.header.log_index + 1)
        assert list(again._touches) == touches


def memory_of(thing: object, seen: set[int]) -> int:
    if id(thing) in seen or thing is None:
        return 0
    seen.add(id(thing))
    inside: list[object] = []
    if isinstance(thing, dict):
        inside = [*thing, *thing.values()]
    elif isinstance(thing, (list, tuple)):
        inside = list(thing)
    return sys.getsizeof(thing) + sum(memory_of(part, seen) for part in inside)


@pytest.mark.req("WS-46")
def test_only_bytes_that_both_touch_are_a_hazard(site: Site) -> None:
    inode_id = site.file(b"a")
    does(site, ANN, ops.write(inode_id, 10, b"0123456789"))
    written = site.header.log_index
    assert found(site, BOB, ops.write(inode_id, 0, b"0123456789")) is None
    assert found(site, BOB, ops.write(inode_id, 20, b"0123456789")) is None
    assert found(site, BOB, ops.write(inode_id, 15, b"")) is None
    assert found(site, BOB, ops.truncate(inode_id, 30)) is None
    assert found(site, BOB, ops.truncate(inode_id, 19)) == HazardFound(OVERLAPPING_WRITE, written)
    assert found(site, BOB, ops.append(inode_id, b"goes behind everything")) is None
    cut = does(site, ANN, ops.truncate(inode_id, 25)).log_index
    assert found(site, BOB, ops.append(inode_id, b"overwrites nothing")) is None
    assert found(site, BOB, ops.write(inode_id, 24, b"12")) == HazardFound(OVERLAPPING_WRITE, cut)


@pytest.mark.req("WS-46")
def test_the_same_node_or_name_renamed_by_two_clients_is_a_hazard(site: Site) -> None:
    for name in (b"a", b"b", b"c", b"d"):
        site.file(name)
    first = does(site, ANN, ops.rename(ROOT, b"a", ROOT, b"a2")).log_index
    assert found(site, BOB, ops.rename(ROOT, b"a2", ROOT, b"a3")) == HazardFound(CONCURRENT_RENAME, first)
    second = does(site, ANN, ops.rename(ROOT, b"b", ROOT, b"saved")).log_index
    assert found(site, BOB, ops.rename(ROOT, b"c", ROOT, b"saved")) == HazardFound(CONCURRENT_RENAME, second)
    assert found(site, BOB, ops.rename(ROOT, b"d", ROOT, b"elsewhere")) is None


@pytest.mark.req("WS-46")
@pytest.mark.parametrize("cold", [False, True])
def test_writing_to_what_another_removed_or_replaced_is_a_hazard(site: Site, cold: bool) -> None:
    removed, replaced, linked = site.file(b"removed"), site.file(b"replaced"), site.file(b"linked")
    site.file(b"new")
    does(site, ANN, ops.link(linked, ROOT, b"second"))
    gone = does(site, ANN, ops.unlink(ROOT, b"removed")).log_index
    moved = does(site, ANN, ops.rename(ROOT, b"new", ROOT, b"replaced")).log_index
    does(site, ANN, ops.unlink(ROOT, b"linked"))
    if cold:
        site.restart()
    assert found(site, BOB, ops.append(removed, b"lost")) == HazardFound(WRITE_AFTER_UNLINK, gone)
    assert found(site, BOB, ops.truncate(replaced, 9)) == HazardFound(WRITE_AFTER_UNLINK, moved)
    assert found(site, BOB, ops.append(linked, b"not lost")) is None
    assert found(site, ANN, ops.append(removed, b"knows")) is None


def listed(site: Site) -> list[HazardEvent]:
    return [found for found in hazard_steps(site.store, site.workspace_id) if found is not None]


@pytest.mark.req("WS-46")
def test_the_newest_hazards_are_listed_as_they_were_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inode_id = site.file(b"a")
    told = []
    for number in range(6):
        client, agent = ((ANN, "ann"), (BOB, "bob"))[number % 2]
        site.mixed(Sent(ops.sync(ROOT)), Sent(ops.write(inode_id, 0, b"x"), client, f"host-{number}", agent))
        told += site.events
    assert len(told) == 5
    site.restart()
    assert listed(site) == told[::-1]
    site.done(ops.unlink(ROOT, b"a"))
    last = told[-1]
    assert isinstance(last, HazardEvent)
    assert listed(site)[0] == last._replace(path=b"")
    monkeypatch.setattr(hazard_list, "HAZARD_LIST_OPS_MAX", 5)
    assert listed(site) == [one._replace(path=b"") for one in (told[4], told[3]) if isinstance(one, HazardEvent)]
    assert list(hazard_steps(site.store, b"w" * 16)) == []


@pytest.mark.req("WS-46")
def test_what_the_writer_has_seen_and_what_its_own_agent_did_is_none(site: Site) -> None:
    inode_id = site.file(b"a")
    seen = does(site, ANN, ops.write(inode_id, 0, b"x"), "host-1", "ann").log_index
    assert found(site, BOB, ops.write(inode_id, 0, b"y", base_index=seen)) is None
    seen = site.header.log_index
    own = does(site, ANN, ops.write(inode_id, 0, b"x"), "host-1", "ann")
    assert own.hazard == HazardFound(OVERLAPPING_WRITE, seen)
    other_process = ClientId(b"client------ann2")
    again = does(site, other_process, ops.write(inode_id, 0, b"z", base_index=own.log_index), "host-1", "ann")
    assert again.hazard is None
    assert does(site, ANN, ops.write(inode_id, 0, b"x"), "host-1", "ann").hazard == HazardFound(OVERLAPPING_WRITE, seen)
    namesake = does(site, ClientId(b"client--namesake"), ops.write(inode_id, 0, b"z"), "host-2", "ann")
    assert namesake.hazard is not None
