"""CoordinationService: what is told of hazards, reservations and settings (WS-29, WS-45, WS-46, WS-56)."""

from __future__ import annotations

import asyncio

import pytest

from hypercluster.errors import MalformedError, WrongWorkspaceError
from hypercluster.limits import SNAPSHOT_EVERY_S
from hypercluster.pb.v1 import coordination_command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1 import read_pb2
from tests.unit.node.commands import client
from tests.unit.node.locks import BOB
from tests.unit.rpc.test_command_stream import PipeCall
from tests.unit.rpc.test_coordination_service import World
from tests.unit.workspace import ops

STALE = read_pb2.ReadOptions(level=read_pb2.READ_LEVEL_BOUNDED_STALE)


@pytest.mark.req("WS-46")
async def test_hazards_are_listed_the_newest_first_and_bounded() -> None:
    world, call = World(), PipeCall()
    _, made = world.do(1, ops.create(ops.ROOT, b"a"))
    assert made is not None
    indexes = []
    for lane in (1, 2, 1):
        _, outcome = world.do(lane, ops.write(made.inode_id, 0, b"x"))
        assert outcome is not None
        indexes.append(outcome.log_index)
    request = pb.HazardsRequest(read=STALE, workspace_id=world.workspace_id)
    answer = await world.service.hazards(request, call)  # type: ignore[arg-type]
    assert [(one.log_index, one.hazard.conflicting_log_index, one.path) for one in answer.hazards] == [
        (indexes[2], indexes[1], b"a"),
        (indexes[1], indexes[0], b"a"),
    ]
    request.limit = 1
    assert len((await world.service.hazards(request, call)).hazards) == 1  # type: ignore[arg-type]
    request.limit = 1_001
    with pytest.raises(MalformedError, match="limit"):
        await world.service.hazards(request, call)  # type: ignore[arg-type]


@pytest.mark.req("WS-46", "CL-13")
async def test_a_long_list_of_hazards_holds_up_nobody() -> None:
    """Each takes two records of the log, each as large as an entry: a leader that reads a thousand of them in one turn
    sends no heartbeat meanwhile."""
    world, call = World(), PipeCall()
    _, made = world.do(1, ops.create(ops.ROOT, b"a"))
    assert made is not None
    for number in range(201):
        world.do(1 + number % 2, ops.write(made.inode_id, 0, b"x"))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    request = pb.HazardsRequest(read=STALE, workspace_id=world.workspace_id, limit=1_000)
    answer = await world.service.hazards(request, call)  # type: ignore[arg-type]
    task.cancel()
    assert len(answer.hazards) == 200
    assert turns >= 50


@pytest.mark.req("WS-45")
async def test_reservations_are_listed_while_they_hold() -> None:
    world, call = World(), PipeCall()
    _, made = world.do(1, ops.reserve(b"src/**", ttl_ms=2_000))
    assert made is not None and made.lock is not None
    request = pb.ReservationsRequest(read=STALE, workspace_id=world.workspace_id)
    (found,) = (await world.service.reservations(request, call)).reservations  # type: ignore[arg-type]
    assert found == pb.ReservationRecord(
        reservation_id=made.lock.lock_id,
        pattern=b"src/**",
        exclusive=True,
        expires_ns=made.stamp_ns + 2_000_000_000,
        worker=found.worker,
        client_id=client(1),
    )
    world.pass_time(2.5)
    world.do(2, ops.create(ops.ROOT, b"a"), BOB)
    assert not (await world.service.reservations(request, call)).reservations  # type: ignore[arg-type]


@pytest.mark.req("WS-29", "WS-56")
async def test_settings_are_told_whole_quotas_and_defaults_included() -> None:
    world, call = World(), PipeCall()
    world.do(1, ops.workspace_set(local_patterns=b"target/\n", quota_nodes=7))
    request = pb.WorkspaceSettingsRequest(read=STALE, workspace_id=world.workspace_id)
    settings = (await world.service.settings(request, call)).settings  # type: ignore[arg-type]
    assert (settings.local_patterns, settings.quota_nodes, settings.snapshot_every_s) == (
        b"target/\n",
        7,
        SNAPSHOT_EVERY_S,
    )
    assert all(settings.HasField(field.name) for field in command_pb.WorkspaceSet.DESCRIPTOR.fields)
    with pytest.raises(WrongWorkspaceError):
        await world.service.settings(pb.WorkspaceSettingsRequest(read=STALE, workspace_id=b"x" * 16), call)  # type: ignore[arg-type]
