"""The leader's schedule of snapshots, trims and collections, over a real machine and a virtual clock."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from blake3 import blake3

from hypercluster.errors import QueueFullError
from hypercluster.limits import CHUNK_PIN_MS, LAG_MAX_MS
from hypercluster.node import retention
from hypercluster.node.collection import Collection
from hypercluster.node.own_lane import WAITING_MAX, OwnLane
from hypercluster.node.retention import Retention, RetentionSettings
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.outcome import OK, PRECONDITION_FAILED
from hypercluster.state_machine.workspace import oplog, queries
from hypercluster.state_machine.workspace.chunks import present_chunks
from hypercluster.state_machine.workspace.oplog import first_since, log_bytes, log_floor, scan_log
from hypercluster.state_machine.workspace.snapshots import list_snapshots
from hypercluster.values import NodeId, Role
from tests.unit.node.commands import client, submit
from tests.unit.node.test_proposer import Node
from tests.unit.workspace import ops


@pytest.fixture(autouse=True)
def short_hazard_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise no log of these tests would be long enough to be trimmed."""
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 1)


class World(Node):
    def __init__(self, settings: RetentionSettings | None = None) -> None:
        super().__init__()
        self.engine.stamp_ns = self.turns.wall_ns()
        self.settings = settings or RetentionSettings()
        self.lane = OwnLane(self.proposer, self.standing, random_bytes=lambda count: b"r" * count)
        self.retention = Retention(
            self.lane, self.standing, self.state, self.turns, self.metrics, lambda _: self.settings
        )
        self.collector = OwnLane(self.proposer, self.standing, random_bytes=lambda count: b"g" * count)
        self.collection = Collection(self.collector, self.standing, self.state, self.turns, self.metrics)
        self.seq = 0
        self.workspace_id = b""
        self.do(ops.workspace())
        found = next(queries.scan_workspaces(self.state))
        self.workspace_id = found[1]

    def do(self, *commands: Command) -> None:
        """In an entry of their own."""
        self.seq += 1
        self.send(submit(client(1), self.seq, *commands, workspace_id=self.workspace_id))
        self.seq += len(commands) - 1
        self.turns.settle()
        self.commit()
        assert all(reason == OK for _, reason in self.flat()), self.flat()

    def pass_time(self, span_s: float) -> None:
        self.turns.now_s += span_s
        self.engine.stamp_ns = self.turns.wall_ns()

    def look(self, times: int = 12, step_s: float = 1.0) -> None:
        """As the lifecycle does."""
        for _ in range(times):
            self.pass_time(step_s)
            self.retention.look()
            self.collection.look()
            self.turns.settle()
            while self.engine.proposals:
                self.commit()

    def snapshots(self) -> list[int]:
        return [found.log_index for found in list_snapshots(self.state, self.workspace_id)]

    def files(self, count: int) -> None:
        for _ in range(count):
            self.do(ops.create(ops.ROOT, b"f%d" % self.seq))

    def head(self) -> int:
        found = queries.read_header(self.state, self.workspace_id)
        assert found is not None
        return found.log_index


@pytest.mark.req("WS-53")
def test_a_workspace_is_marked_every_so_often_if_anything_changed() -> None:
    world = World(RetentionSettings(snapshot_every_s=300))
    world.look()
    assert world.snapshots() == [], "nothing is in it"
    world.files(2)
    world.look()
    assert world.snapshots() == [2]
    world.files(1)
    world.look()
    assert world.snapshots() == [2], "not so soon"
    world.pass_time(300)
    world.look()
    assert world.snapshots() == [2, 3]
    world.pass_time(10_000)
    world.look()
    assert world.snapshots() == [2, 3], "nothing changed"


@pytest.mark.req("WS-53")
def test_the_oldest_snapshots_beyond_the_number_kept_are_dropped() -> None:
    world = World(RetentionSettings(snapshot_every_s=1, snapshots_kept=3))
    for _ in range(6):
        world.files(1)
        world.look(8)
    assert world.snapshots() == [4, 5, 6]
    world.settings = RetentionSettings(snapshot_every_s=1, snapshots_kept=1)
    world.look()
    assert world.snapshots() == [6]


def test_only_the_leader_proposes_and_a_lost_proposal_is_made_again() -> None:
    world = World(RetentionSettings(snapshot_every_s=1))
    world.files(1)
    world.engine.follow("n2")
    world.look(3)
    assert world.snapshots() == []
    world.engine.now = replace(world.engine.now, role=Role.LEADER, leader=NodeId("n1"))
    world.pass_time(5)
    world.retention.look()
    world.turns.settle()
    assert len(world.engine.proposals) == 1
    world.engine.lose()
    world.turns.settle()
    world.look()
    assert world.snapshots() == [1]


@pytest.mark.req("WS-53")
def test_a_snapshot_that_is_asked_for_is_taken_at_once_or_refused() -> None:
    world = World()
    world.files(1)
    answers: list[tuple[int, int]] = []
    world.retention.take(world.workspace_id, lambda reason, index: answers.append((reason, index)))
    world.retention.take(world.workspace_id, lambda reason, index: answers.append((reason, index)))
    world.look(4)
    assert answers == [(OK, 1), (PRECONDITION_FAILED, 1)]
    world.engine.follow("n2")
    world.retention.take(world.workspace_id, lambda reason, index: answers.append((reason, index)))
    world.turns.settle()
    assert answers[2] == (-1, 0)


def test_a_lane_holds_a_bounded_number_of_messages() -> None:
    world = World()
    world.files(1)
    for _ in range(WAITING_MAX + 1):
        world.retention.take(world.workspace_id, lambda *_: None)
    with pytest.raises(QueueFullError, match=str(WAITING_MAX)):
        world.retention.take(world.workspace_id, lambda *_: None)


# --- the op log -----------------------------------------------------------------------------------


@pytest.mark.req("WS-54")
def test_the_log_is_trimmed_only_by_what_is_older_than_both_bounds() -> None:
    world = World(RetentionSettings(snapshot_every_s=1, oplog_keep_s=1_000, oplog_keep_ops=20))
    world.files(30)
    world.look()
    assert log_floor(world.state, world.workspace_id) == 1, "they are young"
    world.pass_time(2_000)
    world.look()
    assert log_floor(world.state, world.workspace_id) == 11, "the last twenty stay, however old"
    world.files(50)
    world.look()
    assert log_floor(world.state, world.workspace_id) == 31, "what is young stays, however much it is"
    assert world.snapshots()[-1] == 80


@pytest.mark.req("WS-54")
def test_a_log_over_its_budget_loses_its_oldest_part_early_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.files(40)
    size_bytes = log_bytes(world.state, world.workspace_id)
    parts = list(scan_log(world.state, world.workspace_id, 1))
    assert size_bytes == sum(len(part.batch) for part in parts)
    world.settings = RetentionSettings(oplog_bytes_max=size_bytes // 2)
    with caplog.at_level(logging.ERROR):
        world.look(30)
    left = list(scan_log(world.state, world.workspace_id, 1))
    kept_bytes = sum(len(part.batch) for part in left)
    assert size_bytes // 3 < kept_bytes <= size_bytes // 2
    assert kept_bytes == log_bytes(world.state, world.workspace_id)
    assert [record.message for record in caplog.records] == ["an op log is over its budget: its oldest part goes early"]
    assert world.metrics.oplog_early_trims._value.get() >= 1


@pytest.mark.req("WS-52")
def test_the_operations_since_a_moment_are_found_by_their_stamps() -> None:
    world = World()
    moments = []
    for _ in range(9):
        world.pass_time(10)
        moments.append(world.turns.wall_ns())
        world.files(3)
    for place, moment_ns in enumerate(moments):
        assert first_since(world.state, world.workspace_id, moment_ns, world.head()) == 3 * place + 1
    assert first_since(world.state, world.workspace_id, 0, world.head()) == 1
    assert first_since(world.state, world.workspace_id, moments[-1] + 10**12, world.head()) == world.head() + 1


# --- chunks ---------------------------------------------------------------------------------------


@pytest.mark.req("WS-54", "WS-33")
def test_the_collection_goes_round_and_removes_what_nothing_reaches() -> None:
    world = World(RetentionSettings(snapshot_every_s=100_000, oplog_keep_s=100_000))
    contents = [b"%04d" % number * 300 for number in range(700)]
    for start in range(0, len(contents), 100):
        world.do(*[ops.chunk_put(content) for content in contents[start : start + 100]])
    world.do(ops.create(ops.ROOT, b"f"))
    inode_id = queries.list_directory(world.state, world.workspace_id, ops.ROOT, b"", 1).entries[0][1].inode_id
    kept = blake3(contents[5]).digest()
    world.do(ops.write_pieces(inode_id, 0, [(kept, 0, 9)]))
    world.look(3)
    assert len(list(present_chunks(world.state, world.workspace_id))) == 700, "they were just sent"
    world.pass_time(CHUNK_PIN_MS / 1000 + 60)
    world.look(40)
    assert [found for found, _ in present_chunks(world.state, world.workspace_id)] == [kept]
    assert world.metrics.gc_chunks._value.get() == 699
    assert world.metrics.gc_bytes._value.get() == 699 * 1_200
    assert world.collection.progress.rounds >= 1
    world.do(ops.truncate(inode_id, 0))
    world.pass_time(CHUNK_PIN_MS / 1000)
    world.look(200)
    assert len(list(present_chunks(world.state, world.workspace_id))) == 1, "a worker may still replay"
    world.pass_time(LAG_MAX_MS / 1000)
    world.look(200)
    assert len(list(present_chunks(world.state, world.workspace_id))) == 1, "a snapshot has it"
    world.settings = RetentionSettings(snapshot_every_s=1, snapshots_kept=1)
    world.look(200)
    assert list(present_chunks(world.state, world.workspace_id)) == []


def test_the_collection_is_rate_limited() -> None:
    world = World()
    world.collection = Collection(world.collector, world.standing, world.state, world.turns, world.metrics, 10)
    for start in range(0, 600, 100):
        world.do(*[ops.chunk_put(b"%04d" % number * 300) for number in range(start, start + 100)])
    world.pass_time(CHUNK_PIN_MS / 1000 + 60)
    world.look(20, 0.25)
    assert len(list(present_chunks(world.state, world.workspace_id))) == 300
    world.look(31)
    assert list(present_chunks(world.state, world.workspace_id)) == []


@pytest.mark.req("WS-54", "D-4")
def test_one_trim_removes_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply reads what it removes: a thousand records as large as an entry would hold up every node for seconds."""
    monkeypatch.setattr(retention, "TRIM_BYTES_MAX", 60_000)
    world = World(RetentionSettings(snapshot_every_s=10**6, oplog_keep_s=0, oplog_keep_ops=5))
    world.files(1)
    inode = next(iter(queries.list_directory(world.state, world.workspace_id, ops.ROOT, b"", 1).entries))[1]
    for number in range(60):
        world.do(*[ops.write(inode.inode_id, 0, b"%d" % number * 1_000) for _ in range(5)])
    world.retention.take(world.workspace_id, lambda *_: None)
    world.turns.settle()
    world.commit()
    before = log_bytes(world.state, world.workspace_id)
    assert before > 500_000
    trims = 0
    for _ in range(100):
        world.pass_time(1.0)
        world.retention.look()
        world.turns.settle()
        while world.engine.proposals:
            world.commit()
        left = log_bytes(world.state, world.workspace_id)
        assert before - left <= 70_000, "the average of what is left, and a record"
        trims += left < before
        before = left
    assert trims >= 8
    assert before < 30_000, "it goes on until nothing is over"


@pytest.mark.req("WS-54")
def test_the_first_record_goes_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "TRIM_BYTES_MAX", 10)
    world = World(RetentionSettings(snapshot_every_s=10**6, oplog_keep_s=0, oplog_keep_ops=1))
    for _ in range(3):
        world.do(*[ops.create(ops.ROOT, b"f%d-%d" % (world.seq, number)) for number in range(10)])
    world.retention.take(world.workspace_id, lambda *_: None)
    world.turns.settle()
    world.commit()
    world.look(20)
    assert log_floor(world.state, world.workspace_id) == 21
