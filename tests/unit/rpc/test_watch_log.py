"""Who is given old records of the log: a reader all that is kept, a replica what the replay window says (WS-52)."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from hypercluster import limits
from hypercluster.node.fanout import Fanout
from hypercluster.node.op_log import stored_op_log
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.pb.v1.command_pb2 import MaintenanceCommand, TrimOplog
from hypercluster.rpc.workspace_service import WorkspaceService, encode_slice
from hypercluster.state_machine.workspace import oplog, queries
from tests.unit.node.test_retention import World


class HungUpError(Exception):
    """The caller has seen what it wanted."""


class Caller:
    """A call that hangs up when the log is caught up with, or ends."""

    timeout_s = 5.0

    def __init__(self, world: World) -> None:
        header = queries.read_header(world.state, world.workspace_id)
        assert header is not None
        self.caller = SimpleNamespace(scope=SimpleNamespace(org=header.org, project=header.project))
        self.events: list[pb.WatchLogResponse] = []

    async def write(self, message: bytes) -> None:
        self.events.append(pb.WatchLogResponse.FromString(message))
        if self.events[-1].HasField("caught_up"):
            raise HungUpError


async def watched(world: World, from_index: int, *, as_kept: bool) -> tuple[int, int]:
    """(operations that came, where the log is said to be kept from)."""
    nothing: Any = SimpleNamespace(standing=world.standing, identity=None)
    snapshots: Any = SimpleNamespace(list_snapshots=0, take_snapshot=0, snapshot_manifest=0, tree_snapshot=0)
    fanout = Fanout(stored_op_log(world.state, world.turns.wall_ns), world.turns, world.metrics, encode_slice)
    service = WorkspaceService(world.state, nothing, nothing, fanout, nothing, nothing, snapshots)
    call: Any = Caller(world)
    request = pb.WatchLogRequest(workspace_id=world.workspace_id, from_index=from_index, as_kept=as_kept)
    with suppress(HungUpError):
        await service.watch_log(request, call)
    slices = [event.slice for event in call.events if event.HasField("slice")]
    count = sum(found.last_index - found.first_index + 1 for found in slices)
    return count, call.events[-1].snapshot_needed.retained_from


@pytest.mark.req("WS-51", "WS-52")
async def test_a_reader_of_the_log_is_given_what_is_kept_however_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 1)
    world = World()
    world.files(6)
    world.pass_time(10 * limits.LAG_MAX_MS / 1000)
    world.files(3)
    assert await watched(world, 1, as_kept=True) == (9, 0)
    assert await watched(world, 1, as_kept=False) == (0, 7), "a replica begins with a snapshot"
    trim = MaintenanceCommand(trim_oplog=TrimOplog(workspace_id=world.workspace_id, below_log_index=4))
    world.lane.propose([trim], lambda _: None)
    world.turns.settle()
    world.commit()
    assert await watched(world, 1, as_kept=True) == (0, 4), "below what is kept it is told from where on"
    assert await watched(world, 4, as_kept=True) == (6, 0)
