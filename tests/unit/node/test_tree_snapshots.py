"""When a node takes the tree of a workspace, of which moment, and what it lets go of (WS-53)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from hypercluster.errors import DiskFullError
from hypercluster.node import tree_snapshots
from hypercluster.node.retention import RetentionSettings
from hypercluster.node.tree_snapshots import TreeSnapshots
from hypercluster.state_machine.outcome import MarkedSnapshot
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.transfer import export_records
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.runner import Done, Job
from hypercluster.storage.snapshots.store import SnapshotStore
from tests.fakes import certs
from tests.fakes.held_records import HeldScan
from tests.unit.node.test_retention import World
from tests.unit.storage.test_snapshots import HISTORY, read_back
from tests.unit.workspace import ops


class SteppedRunner:
    """Runs a job when the test says so."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Job, Done]] = deque()

    def submit(self, job: Job, done: Done) -> None:
        self.jobs.append((job, done))

    def run_one(self) -> None:
        job, done = self.jobs.popleft()
        try:
            job()
        except BaseException as error:
            done(error)
        else:
            done(None)


class Snapshooting(World):
    def __init__(self, path: Path) -> None:
        super().__init__(RetentionSettings(snapshot_every_s=10**6))
        self.path = path
        self.fatal: list[BaseException] = []
        self.held: list[HeldScan] = []
        self.room = True
        self.open()

    def hold(self, family: Family, start: bytes, end: bytes) -> HeldScan:
        self.held.append(HeldScan(self.state, family, start, end))
        return self.held[-1]

    def open(self) -> None:
        self.runner = SteppedRunner()
        self.store = SnapshotStore(str(self.path / "snapshots"), PosixDisk())
        self.snapshots_here = TreeSnapshots(
            self.store,
            self.state,
            self.hold,
            self.runner,
            self.turns,
            self.metrics,
            HISTORY,
            lambda: certs.node("n1"),
            self.fatal.append,
            bytes_per_s=1 << 20,
            has_room=lambda: self.room,
        )
        self.host._on_snapshots = self.snapshots_here.marked

    def restart(self) -> None:
        self.snapshots_here.close()
        while self.runner.jobs:
            self.runner.run_one()
        self.store.close()
        self.open()

    def mark(self) -> int:
        self.retention.take(self.workspace_id, lambda *_: None)
        self.turns.settle()
        while self.engine.proposals:
            self.commit()
        return self.snapshots()[-1]

    def work(self, until: Callable[[], bool]) -> None:
        for _ in range(2_000):
            if until():
                return
            if self.runner.jobs:
                self.runner.run_one()
            self.turns.pass_time(1.0)
            self.snapshots_here.look()
        raise AssertionError("it did not happen")

    def tree(self) -> list[Change]:
        return list(export_records(self.state, self.workspace_id))


@pytest.fixture
def world(tmp_path: Path) -> Snapshooting:
    return Snapshooting(tmp_path)


@pytest.mark.req("WS-53")
def test_the_tree_is_that_of_the_entry_whatever_is_written_while_it_is_read(
    world: Snapshooting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_snapshots, "STEP_RECORDS", 7)
    world.files(60)
    log_index = world.mark()
    expected = world.tree()
    for number in range(40):
        if world.runner.jobs:
            world.runner.run_one()
        world.turns.pass_time(0.1)
        world.do(ops.create(ops.ROOT, b"later %d" % number))
    world.work(lambda: world.store.held() == [(world.workspace_id, log_index)])
    assert read_back(world.store, world.workspace_id, log_index) == expected != world.tree()
    assert all(found.ended for found in world.held), "the state is let go"
    assert not world.fatal


@pytest.mark.req("WS-53")
def test_marks_that_come_faster_than_they_are_written_leave_the_newest(world: Snapshooting) -> None:
    marks = []
    for _ in range(5):
        world.files(1)
        marks.append(world.mark())
    world.work(lambda: len(world.store.held()) == 2)
    assert world.store.held() == [(world.workspace_id, marks[0]), (world.workspace_id, marks[-1])]
    assert all(found.ended for found in world.held)


@pytest.mark.req("WS-53")
def test_a_dropped_snapshot_goes_and_one_that_is_still_to_be_replayed_stays(world: Snapshooting) -> None:
    world.files(3)
    first = world.mark()
    world.work(lambda: len(world.store.held()) == 1)
    key = next(key for key, _ in world.state.scan(Family.CHUNKS, b"m", b"n"))
    record = world.state.get(Family.CHUNKS, key)
    world.state.write([Change(Family.CHUNKS, key, None)])  # as after a restart, before its mark is applied again
    for _ in range(20):
        world.turns.pass_time(10)
        world.snapshots_here.look()
        while world.runner.jobs:
            world.runner.run_one()
    assert len(world.store.held()) == 1, "nothing is known to have been dropped"
    world.state.write([Change(Family.CHUNKS, key, record)])
    world.files(1)
    second = world.mark()
    world.work(lambda: len(world.store.held()) == 2)
    world.settings = RetentionSettings(snapshot_every_s=10**6, snapshots_kept=1)
    world.look()
    assert world.snapshots() == [second]
    world.work(lambda: world.store.held() == [(world.workspace_id, second)])
    world.work(lambda: not world.runner.jobs and not world.snapshots_here._sweep_due)
    manifest = world.store.newest(world.workspace_id)
    assert manifest is not None
    named = {*manifest.index_pages, *world.store.page_hashes(manifest)}
    assert set(world.store._pages.hashes()) == named
    assert first != second


@pytest.mark.req("WS-53")
def test_a_look_asks_of_a_few_snapshots_only_and_comes_to_all(
    world: Snapshooting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three days of a dozen workspaces are ten thousand: asked for in one turn, they would hold up heartbeats."""
    monkeypatch.setattr(tree_snapshots, "HELD_A_LOOK", 2)
    marks = []
    for _ in range(7):
        world.files(1)
        marks.append(world.mark())
        world.work(lambda: len(world.store.held()) == len(marks))
    place = marks[4].to_bytes(8, "big")
    key = next(key for key, _ in world.state.scan(Family.CHUNKS, b"m", b"n") if key.endswith(place))
    world.state.write([Change(Family.CHUNKS, key, None)])
    asked: list[int] = []
    is_dropped = world.snapshots_here._is_dropped

    def count(workspace_id: bytes, log_index: int) -> bool:
        asked.append(log_index)
        return is_dropped(workspace_id, log_index)

    monkeypatch.setattr(world.snapshots_here, "_is_dropped", count)
    for _ in range(6):
        asked.clear()
        world.turns.pass_time(10)
        world.snapshots_here.look()
        assert len(asked) <= 2
        while world.runner.jobs:
            world.runner.run_one()
    world.work(lambda: [log_index for _, log_index in world.store.held()] == [*marks[:4], *marks[5:]])


def test_what_a_stopped_node_was_writing_is_swept_and_a_replayed_mark_writes_nothing_twice(
    world: Snapshooting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_snapshots, "STEP_RECORDS", 50)
    world.files(400)
    world.mark()
    while not world.store.page_count:  # where pages end follows from ids that are random
        world.runner.run_one()
        world.turns.pass_time(1.0)
    assert world.store.held() == []
    world.restart()
    assert world.store.held() == []
    header = queries.read_header(world.state, world.workspace_id)
    assert header is not None
    again = MarkedSnapshot(world.workspace_id, header.log_index, header.root)
    world.work(lambda: len(world.store.held()) == 1)  # nothing changed meanwhile, so it is made again
    assert read_back(world.store, world.workspace_id, header.log_index) == world.tree()
    world.snapshots_here.marked([again])
    assert not world.snapshots_here._waiting, "it is there"
    world.files(1)
    lost = world.mark()
    world.restart()
    world.files(1)
    for _ in range(40):
        world.turns.pass_time(5)
        world.snapshots_here.look()
        while world.runner.jobs:
            world.runner.run_one()
    assert (world.workspace_id, lost) not in world.store.held(), "its tree is gone"


def test_a_full_disk_costs_the_snapshot_and_not_the_node(world: Snapshooting, monkeypatch: pytest.MonkeyPatch) -> None:
    world.files(200)

    def full(_: bytes) -> bytes:
        raise DiskFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put_page", full)
        world.mark()
        world.work(lambda: all(found.ended for found in world.held))
    assert not world.fatal
    world.files(1)
    log_index = world.mark()
    world.work(lambda: world.store.held() == [(world.workspace_id, log_index)])
    monkeypatch.setattr(world.store, "publish", lambda *_: (_ for _ in ()).throw(OSError(5, "input/output error")))
    world.files(1)
    world.mark()
    world.work(lambda: bool(world.fatal))


@pytest.mark.req("WS-53", "CL-4")
def test_what_is_left_of_a_disk_is_not_for_snapshots(world: Snapshooting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_snapshots, "STEP_RECORDS", 50)
    world.files(400)
    world.room = False
    world.mark()
    assert not world.held, "it does not begin"
    world.room = True
    world.files(1)
    log_index = world.mark()
    world.runner.run_one()
    world.turns.pass_time(1.0)
    world.runner.run_one()
    world.room = False
    world.turns.pass_time(1.0)
    while world.runner.jobs:
        world.runner.run_one()
        world.turns.pass_time(1.0)
    assert all(found.ended for found in world.held), "it does not go on"
    for _ in range(10):
        world.turns.pass_time(10)
        world.snapshots_here.look()
        while world.runner.jobs:
            world.runner.run_one()
    assert world.store.held() == []
    assert world.store.page_count == 0, "what it had written is given back"
    world.room = True
    world.work(lambda: world.store.held() == [(world.workspace_id, log_index)])
    assert not world.fatal
