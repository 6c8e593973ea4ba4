"""Who may go on by the log, who must begin with a snapshot, and when a connected worker is cut over (WS-52)."""

from __future__ import annotations

import pytest

from hypercluster import limits
from hypercluster.errors import HistoryGoneError
from hypercluster.node.fanout import Fanout, Head
from hypercluster.node.op_log import stored_op_log
from hypercluster.node.replay_window import replay_floor
from hypercluster.pb.v1.command_pb2 import MaintenanceCommand, TrimOplog
from hypercluster.pb.v1.workspace_pb2 import WatchLogResponse
from hypercluster.rpc.workspace_service import encode_slice
from hypercluster.state_machine.workspace import oplog
from tests.unit.node.test_retention import World

WINDOW_S = limits.REPLAY_WINDOW_MS / 1000
LAG_S = limits.LAG_MAX_MS / 1000


def floor(world: World) -> int:
    return replay_floor(world.state, world.workspace_id, world.turns.wall_ns())


def fanout(world: World) -> Fanout:
    return Fanout(stored_op_log(world.state, world.turns.wall_ns), world.turns, world.metrics, encode_slice)


async def first_index(watch: object) -> int:
    message = await watch.next_message()  # type: ignore[attr-defined]
    assert isinstance(message, bytes)
    return WatchLogResponse.FromString(message).slice.first_index


@pytest.mark.req("WS-52")
def test_the_window_is_the_smaller_of_ten_minutes_and_two_million_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (limits.REPLAY_WINDOW_MS, limits.REPLAY_WINDOW_OPS) == (10 * 60_000, 2_000_000)
    world = World()
    world.files(4)
    assert floor(world) == 1
    world.pass_time(WINDOW_S - 1)
    world.files(3)
    assert floor(world) == 1
    world.pass_time(2)
    assert floor(world) == 5, "what is older than the window is behind a snapshot"
    world.pass_time(WINDOW_S)
    assert floor(world) == 8 == world.head() + 1, "without a gap the log will do, however old it is"
    world.files(3)
    monkeypatch.setattr(limits, "REPLAY_WINDOW_OPS", 2)
    assert floor(world) == 9


@pytest.mark.req("WS-52")
def test_the_window_ends_where_the_log_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 1)
    world = World()
    world.files(9)
    trim = MaintenanceCommand(trim_oplog=TrimOplog(workspace_id=world.workspace_id, below_log_index=6))
    world.lane.propose([trim], lambda _: None)
    world.turns.settle()
    world.commit()
    assert floor(world) == 6


@pytest.mark.req("WS-52", "WS-51")
async def test_a_watch_that_lags_too_far_is_cut_over_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_SLICE_BYTES", 1)  # a record at a time
    world = World()
    world.files(6)
    shared = fanout(world)
    slow, quick = shared.watch(world.workspace_id, 1), shared.watch(world.workspace_id, 1)
    assert [await first_index(slow) for _ in range(2)] == [1, 2]
    assert [await first_index(quick) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(await quick.next_message(), Head)
    world.pass_time(LAG_S - 1)
    assert await first_index(slow) == 3
    world.pass_time(2)
    world.files(1)
    with pytest.raises(HistoryGoneError, match="LAG_MAX_MS"):
        await slow.next_message()
    quick.look_again()
    assert await first_index(quick) == 7
    monkeypatch.setattr(limits, "LAG_MAX_OPS", 3)
    world.files(4)
    late = shared.watch(world.workspace_id, 8)
    with pytest.raises(HistoryGoneError, match="LAG_MAX_OPS"):
        await late.next_message()
    quick.look_again()
    with pytest.raises(HistoryGoneError):
        await quick.next_message()


@pytest.mark.req("WS-52")
async def test_the_tail_of_a_snapshot_may_be_as_old_as_its_building_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_SLICE_BYTES", 1)
    world = World()
    world.files(3)
    world.look(4)
    assert world.snapshots() == [3]
    world.files(3)
    world.pass_time(2 * LAG_S)
    shared = fanout(world)
    assert floor(world) == 7
    assert shared.op_log.is_snapshot(world.workspace_id, 3)
    assert not shared.op_log.is_snapshot(world.workspace_id, 4)
    watch = shared.watch(world.workspace_id, 4, from_snapshot=True)
    assert [await first_index(watch) for _ in range(3)] == [4, 5, 6]
    assert isinstance(await watch.next_message(), Head)
    world.files(2)
    watch.look_again()
    assert await first_index(watch) == 7
    world.pass_time(LAG_S + 1)
    with pytest.raises(HistoryGoneError, match="LAG_MAX_MS"):
        await watch.next_message()
    plain = shared.watch(world.workspace_id, 4)
    with pytest.raises(HistoryGoneError, match="LAG_MAX_MS"):
        await plain.next_message()
