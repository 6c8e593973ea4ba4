"""What workers hold open for long is logged, ends with their silence, and keeps orphans alive (WS-44, WS-27)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hypercluster.errors import QueueFullError
from hypercluster.limits import OPEN_LEASE_TTL_MS, OPENS_INSTANCES_MAX, ORPHAN_KEEP_MS
from hypercluster.node.open_leases import BATCH_S
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import Create, FileCommand, Place, Unlink
from hypercluster.state_machine.coordination import leases
from hypercluster.state_machine.workspace.queries import read_inode
from hypercluster.state_machine.workspace.records import ROOT_ID
from hypercluster.values import NodeId, Role, Term
from tests.unit.node.locks import LOOK_S, LockNode

OPEN_S = OPEN_LEASE_TTL_MS / 1000
KEEP_S = ORPHAN_KEEP_MS / 1000


class World(LockNode):
    def __init__(self) -> None:
        super().__init__()
        self.turns.pass_time(1)

    def create(self, name: str) -> bytes:
        place = Place(directory=ROOT_ID, name=name.encode())
        reason, outcome = self.do(50, Command(file=FileCommand(create=Create(place=place, mode=0o644))))
        assert reason == 0 and outcome is not None
        return outcome.inode_id

    def unlink(self, name: str) -> None:
        place = Place(directory=ROOT_ID, name=name.encode())
        assert self.do(50, Command(file=FileCommand(unlink=Unlink(place=place))))[0] == 0

    def report(self, worker: str, *inode_ids: bytes, instance: bytes = b"") -> None:
        self.opens.report(self.workspace_id, worker, instance, inode_ids)

    def logged(self) -> set[tuple[bytes, str]]:
        return {(one.inode_id, one.worker) for one in leases.list_leases(self.state, self.workspace_id, None, 10_000)}


@pytest.mark.req("WS-44")
async def test_changes_are_logged_in_batches_and_nothing_is_where_nothing_changed() -> None:
    world = World()
    files = [world.create(f"f{number}") for number in range(5)]
    world.report("alice", *files[:3])
    world.report("bob", files[0])
    index = world.host.applied_index
    world.pass_time(2 * BATCH_S)
    assert world.logged() == {(files[0], "alice"), (files[1], "alice"), (files[2], "alice"), (files[0], "bob")}
    assert world.host.applied_index == index + 1, "one entry for all of them"
    for _ in range(4):
        world.report("alice", *files[:3])
        world.report("bob", files[0])
        world.pass_time(OPEN_S / 3)
    assert world.host.applied_index == index + 1
    world.report("alice", files[2], files[4], b"?" * 16)
    world.pass_time(2 * BATCH_S)
    assert world.logged() == {(files[2], "alice"), (files[4], "alice"), (files[0], "bob")}, "no lease on no inode"


@pytest.mark.req("WS-44", "D-6")
async def test_a_silent_worker_loses_its_leases_after_their_ttl_and_not_before() -> None:
    world = World()
    file = world.create("f")
    world.report("alice", file)
    world.pass_time(2 * BATCH_S)
    world.pass_time(OPEN_S - 2 * BATCH_S - LOOK_S)
    assert world.logged() == {(file, "alice")}
    world.pass_time(2 * BATCH_S)
    assert world.logged() == set()


@pytest.mark.req("WS-44", "D-6")
async def test_a_new_leader_begins_with_a_full_ttl_and_ends_what_nobody_renews() -> None:
    world = World()
    file, other = world.create("f"), world.create("g")
    world.report("alice", file)
    world.report("bob", file)
    world.pass_time(2 * BATCH_S)
    world.engine.now = replace(world.engine.now, role=Role.LEADER, leader=NodeId("n1"), term=Term(8))
    world.pass_time(OPEN_S - BATCH_S)
    assert world.logged() == {(file, "alice"), (file, "bob")}
    world.report("alice", file, other)
    world.pass_time(3 * BATCH_S)
    assert world.logged() == {(file, "alice"), (other, "alice")}, "bob was silent for a full TTL of the new leader"


async def test_a_new_leader_proposes_nothing_before_it_has_applied_what_others_had_logged() -> None:
    world = World()
    file = world.create("f")
    world.report("alice", file)
    world.pass_time(2 * BATCH_S)
    far = world.host.applied_index + 100
    world.engine.now = replace(world.engine.now, term=Term(8), last_index=far)
    world.report("alice")
    world.pass_time(3 * BATCH_S)
    assert world.logged() == {(file, "alice")}
    world.engine.now = replace(world.engine.now, applied_index=far)
    world.pass_time(OPEN_S)
    world.report("alice")
    world.pass_time(3 * BATCH_S)
    assert world.logged() == set()


@pytest.mark.req("WS-44")
async def test_the_mounts_of_one_worker_do_not_end_each_other_s_leases() -> None:
    world = World()
    file, other = world.create("f"), world.create("g")
    world.report("alice", file, instance=b"1")
    world.report("alice", other, instance=b"2")
    world.pass_time(2 * BATCH_S)
    assert world.logged() == {(file, "alice"), (other, "alice")}
    for _ in range(4):
        world.report("alice", file, instance=b"1")
        world.pass_time(OPEN_S / 3)
    assert world.logged() == {(file, "alice")}, "the second mount was silent"
    world.report("alice", other, instance=b"2")
    world.pass_time(2 * BATCH_S)
    world.engine.now = replace(world.engine.now, term=Term(8))
    world.pass_time(BATCH_S)
    world.report("alice", file, instance=b"1")
    world.pass_time(3 * BATCH_S)
    assert world.logged() == {(file, "alice"), (other, "alice")}, "who has not spoken to the new leader has time to"
    world.report("alice", instance=b"1")
    world.report("alice", other, instance=b"2")
    world.pass_time(OPEN_S)
    assert world.logged() == {(other, "alice")}
    for number in range(OPENS_INSTANCES_MAX):
        world.report("bob", file, instance=b"%d" % number)
    with pytest.raises(QueueFullError, match="OPENS_INSTANCES_MAX"):
        world.report("bob", file, instance=b"one more")


async def test_a_message_that_is_turned_away_is_made_again() -> None:
    world = World()
    file = world.create("f")
    world.report("alice", file)
    world.pass_time(2 * BATCH_S)
    world.report("alice")
    world.turns.pass_time(2 * BATCH_S)
    world.opens.look()
    world.turns.settle()
    world.engine.refuse("QUEUE_FULL")
    world.pass_time(3 * BATCH_S)
    assert world.logged() == set()


@pytest.mark.req("WS-27", "WS-44")
async def test_an_orphan_is_reaped_once_it_is_old_and_nobody_has_it_open() -> None:
    world = World()
    kept, gone = world.create("kept"), world.create("gone")
    world.report("alice", kept)
    world.pass_time(2 * BATCH_S)
    world.unlink("kept")
    world.unlink("gone")
    for _ in range(int(KEEP_S / 5) - 1):
        world.report("alice", kept)
        world.pass_time(5)
    assert read_inode(world.state, world.workspace_id, gone) is not None, "a short open needs no lease"
    for _ in range(4):
        world.report("alice", kept)
        world.pass_time(5)
    assert read_inode(world.state, world.workspace_id, gone) is None
    assert read_inode(world.state, world.workspace_id, kept) is not None
    assert world.metrics.reaped._value.get() == 1
    world.pass_time(OPEN_S + 10)
    assert read_inode(world.state, world.workspace_id, kept) is None


async def test_a_follower_proposes_nothing() -> None:
    world = World()
    file = world.create("f")
    world.unlink("f")
    world.engine.follow("n2")
    world.pass_time(KEEP_S + 10, commits=False)
    assert not world.engine.proposals and read_inode(world.state, world.workspace_id, file) is not None
    await asyncio.sleep(0)


@pytest.mark.req("WS-27", "WS-44")
async def test_orphans_that_are_held_do_not_keep_those_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypercluster.node.reaping.ORPHANS_A_LOOK", 2)
    world = World()
    files = [world.create(f"f{number}") for number in range(7)]
    for number in range(7):
        world.unlink(f"f{number}")
    end_s = world.turns.now_s + KEEP_S + 20
    while world.turns.now_s < end_s:
        world.report("alice", *files[:5])
        world.pass_time(OPEN_S / 3)
    kept = [read_inode(world.state, world.workspace_id, file) is not None for file in files]
    assert kept == [True] * 5 + [False] * 2
    world.pass_time(OPEN_S + 20)
    assert all(read_inode(world.state, world.workspace_id, file) is None for file in files)
