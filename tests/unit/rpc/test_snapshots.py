"""Handing out snapshots: stored pages or the live tree, resuming, and damage that ends no node (WS-52, WS-53)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hypercluster import limits
from hypercluster.errors import NotFoundError
from hypercluster.node.op_log import stored_op_log
from hypercluster.node.reads import ReadPoint
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.rpc.snapshots import SnapshotCalls, SnapshotParts
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace import queries
from tests.unit.node.test_tree_snapshots import Snapshooting
from tests.unit.storage.test_snapshots import HISTORY


class Answers:
    """A call that keeps what is written to it."""

    def __init__(self) -> None:
        self.pieces: list[pb.TreeSnapshotPiece] = []
        self.timeout_s = 5.0

    async def write(self, message: bytes) -> None:
        self.pieces.append(pb.TreeSnapshotPiece.FromString(message))

    def records(self) -> list[Change]:
        return [
            Change(Family(record.family), record.key, record.value) for piece in self.pieces for record in piece.records
        ]


class Serving(Snapshooting):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.op_log = stored_op_log(self.state, self.turns.wall_ns)

    def calls(self) -> SnapshotCalls:
        def header(workspace_id: bytes, _: object) -> Any:
            return queries.read_header(self.state, workspace_id)

        async def point(*_: object) -> ReadPoint:
            raise AssertionError("trees are served from what is here")

        reads: Any = SimpleNamespace(point=point)
        archive: Any = None
        return SnapshotCalls(
            SnapshotParts(
                self.state,
                reads,
                self.standing,
                self.op_log,
                self.store,
                self.retention,
                lambda: self.collection.progress,
                archive,
                lambda: 0,
                HISTORY,
                header,
            )
        )

    async def tree(self, **request: object) -> Answers:  # type: ignore[override]
        answers: Any = Answers()
        await self.calls().tree_snapshot(pb.TreeSnapshotRequest(workspace_id=self.workspace_id, **request), answers)
        return answers  # type: ignore[no-any-return]

    def stored(self) -> int:
        log_index = self.mark()
        self.work(lambda: (self.workspace_id, log_index) in self.store.held())
        return log_index


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Serving]:
    made = Serving(tmp_path)
    yield made
    made.store.close()


@pytest.mark.req("WS-52")
async def test_the_newest_snapshot_is_served_page_by_page_and_can_be_gone_on_with(
    world: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_PIECE_BYTES", 5_000)
    world.files(400)  # more than a few pages, wherever their bounds fall: ids are drawn
    expected = Snapshooting.tree(world)
    log_index = world.stored()
    world.files(3)
    whole = await world.tree()
    assert whole.records() == expected, "as it was at the mark"
    assert len(whole.pieces) > 3
    assert {piece.log_index for piece in whole.pieces} == {log_index}
    assert [piece.HasField("manifest") for piece in whole.pieces] == [True] + [False] * (len(whole.pieces) - 1)
    assert [piece.last for piece in whole.pieces] == [False] * (len(whole.pieces) - 1) + [True]
    for number, piece in enumerate(whole.pieces[:-1]):
        rest = await world.tree(log_index=log_index, from_page=piece.next_page)
        begun = [Change(Family(r.family), r.key, r.value) for p in whole.pieces[: number + 1] for r in p.records]
        assert begun + rest.records() == expected
    with pytest.raises(NotFoundError):
        await world.tree(log_index=log_index + 1)
    with pytest.raises(NotFoundError):
        await world.tree(log_index=log_index, from_page=10_000)


@pytest.mark.req("WS-52")
async def test_the_live_tree_is_served_where_no_snapshot_has_a_tail_that_may_be_replayed(world: Serving) -> None:
    world.files(10)
    assert (await world.tree()).records() == Snapshooting.tree(world), "there is none yet"
    log_index = world.stored()
    world.files(2)
    assert (await world.tree()).pieces[0].log_index == log_index
    assert (await world.tree(live=True)).pieces[0].log_index == log_index + 2
    world.pass_time(limits.REPLAY_WINDOW_MS / 1000 + 1)
    assert (await world.tree()).pieces[0].log_index == log_index + 2, "its tail is too old"
    world.stored()
    world.pass_time(10 * limits.REPLAY_WINDOW_MS / 1000)
    found = await world.tree()
    assert found.pieces[0].HasField("manifest"), "without a tail its age does not matter"


@pytest.mark.req("WS-53")
async def test_a_damaged_snapshot_is_forgotten_and_the_live_tree_served(world: Serving) -> None:
    world.files(300)
    world.stored()
    for segment in world.path.glob("snapshots/pages/*.chunks"):
        content = bytearray(segment.read_bytes())
        for place in range(100, len(content), 64):
            content[place] ^= 1
        segment.write_bytes(content)
    with pytest.raises(NotFoundError, match="damaged"):
        await world.tree()
    assert world.store.held() == []
    assert (await world.tree()).records() == Snapshooting.tree(world)
