"""A worker's session: what it must say first, what it is told, and what the node keeps of it (WS-50, WS-5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hypercluster import limits
from hypercluster.errors import (
    BehindError,
    HistoryChangedError,
    MalformedError,
    TooLargeError,
    WrongWorkspaceError,
)
from hypercluster.node.fanout import Head, OpLog
from hypercluster.node.proposer import ProposerSettings
from hypercluster.node.rate_limit import RateSettings
from hypercluster.node.worker_table import ConnectedWorker, WorkerTable
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.rpc.worker_session import SessionParts, WorkerSession
from hypercluster.telemetry.metrics import Metrics
from tests.fakes.virtual_turns import VirtualTurns
from tests.unit.node.test_reads import World
from tests.unit.rpc.test_command_stream import PipeCall, turns

MINE = b"w" * 16
HELLO = pb.WorkerHello(protocol="hypersync/1", workspace_id=MINE, worker="builder", features=["pressure", "teleport"])


class Node:
    def __init__(self) -> None:
        self.world = World()
        self.workers = WorkerTable(Metrics())
        self.clock = VirtualTurns()

        def header(workspace_id: bytes, _: Any) -> Any:
            if workspace_id != MINE:
                raise WrongWorkspaceError("there is no such workspace")
            return None

        self.parts = SessionParts(
            OpLog(lambda _: Head(41, b""), lambda _: 0, lambda *_: None, lambda _: (0, 0)),
            self.world.standing,
            SimpleNamespace(history_id=b"h" * 16, cluster_id=b"c" * 16),  # type: ignore[arg-type]
            self.workers,
            self.clock,
            ProposerSettings(window_ms=3, rate=RateSettings(ops_per_s=77)),
            header,
        )

    @asynccontextmanager
    async def session(self, hello: pb.WorkerHello = HELLO) -> AsyncIterator[tuple[PipeCall, asyncio.Task[None]]]:
        call = PipeCall()
        call.to_server.put_nowait(pb.WorkerMessage(hello=hello).SerializeToString())
        task = asyncio.create_task(WorkerSession(call, self.parts).run())  # type: ignore[arg-type]
        await turns()
        try:
            yield call, task
        finally:
            call.to_server.put_nowait(None)
            await asyncio.gather(task, return_exceptions=True)

    def rows(self) -> list[ConnectedWorker]:
        return list(self.workers.of(MINE))


def say(call: PipeCall, **fields: Any) -> None:
    applied = pb.WorkerApplied(**{"workspace_id": MINE, **fields})
    call.to_server.put_nowait(pb.WorkerMessage(applied=applied).SerializeToString())


@pytest.mark.req("WS-50")
async def test_the_welcome_says_where_the_cluster_is_and_what_its_bounds_are() -> None:
    node = Node()
    node.world.engine.now = replace(node.world.engine.now, commit_index=99)  # type: ignore[arg-type]
    async with node.session() as (call, _):
        (first,) = call.written
        welcome = pb.ClusterMessage.FromString(first).welcome
    assert (welcome.term, welcome.commit_index, welcome.log_index) == (3, 99, 41)
    assert list(welcome.features) == ["pressure"], "what both can do"
    bounds = welcome.limits
    assert (bounds.batch_window_ms, bounds.rate_ops_per_s) == (3, 77), "this node's settings"
    assert (bounds.chunk_bytes_max, bounds.hazard_window_ops) == (limits.CHUNK_BYTES_MAX, limits.HAZARD_WINDOW_OPS)
    assert (bounds.lock_ttl_ms, bounds.lock_grace_ms) == (limits.LOCK_TTL_MS, limits.LOCK_GRACE_MS)
    assert all(value for _, value in bounds.ListFields()) and len(bounds.ListFields()) == len(bounds.DESCRIPTOR.fields)


@pytest.mark.req("WS-50")
@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"protocol": "hypersync/2"}, MalformedError),
        ({"workspace_id": b"v" * 16}, WrongWorkspaceError),
        ({"history_id": b"x" * 16}, HistoryChangedError),
        ({"features": ["f"] * (limits.FEATURES_MAX + 1)}, TooLargeError),
        ({"features": ["f" * (limits.FEATURE_BYTES_MAX + 1)]}, TooLargeError),
        ({"worker": "n" * (limits.AGENT_BYTES_MAX + 1)}, TooLargeError),
        ({"mount_instance": b"m" * 65}, TooLargeError),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused(changed: dict[str, Any], error: type[Exception]) -> None:
    node = Node()
    hello = pb.WorkerHello()
    hello.CopyFrom(HELLO)
    for name, value in changed.items():
        hello.ClearField(name)  # type: ignore[arg-type]
        hello.MergeFrom(pb.WorkerHello(**{name: value}))
    async with node.session(hello) as (call, task):
        with pytest.raises(error):
            await task
        assert not call.written and not node.rows()


@pytest.mark.req("WS-50")
async def test_a_worker_that_has_seen_a_later_term_goes_to_a_node_that_hears_a_leader() -> None:
    node = Node()
    hello = pb.WorkerHello(protocol="hypersync/1", workspace_id=MINE, term_seen=9)
    async with node.session(hello) as (call, _):
        assert call.written, "it hears a leader: what it is behind, it will learn"
    node.world.engine.follow(None)
    node.world.standing.forget()
    async with node.session(hello) as (_, task):
        with pytest.raises(BehindError, match="term_seen 9"):
            await task


@pytest.mark.req("WS-50")
@pytest.mark.parametrize("workspace_id", [b"v" * 16, b""])
async def test_every_message_names_the_session_s_workspace(workspace_id: bytes) -> None:
    node = Node()
    async with node.session() as (call, task):
        say(call, applied_index=3)
        await turns()
        assert node.rows()[0].applied_index == 3
        say(call, applied_index=4, workspace_id=workspace_id)
        with pytest.raises(WrongWorkspaceError):
            await task
    assert not node.rows()


@pytest.mark.req("WS-5", "WS-50")
async def test_what_a_worker_says_is_kept_as_long_as_its_session() -> None:
    node = Node()
    async with node.session() as (call, _):
        pressure = pb.Pressure(cpu_permille=1500, memory_permille=400, disk_free_bytes=5, disk_total_bytes=9)
        say(call, applied_index=40, read_only=True, missing_chunks=2, pressure=pressure, error_log_index=41,
            error_errno=28, error_message="x" * 9_000)  # fmt: skip
        await turns()
        (row,) = node.rows()
        assert (row.worker, row.name, row.applied_index, row.read_only, row.missing_chunks) == (
            "alice", "builder", 40, True, 2,
        )  # fmt: skip
        assert row.pressure.cpu_permille == 1500 and row.pressure.disk_total_bytes == 9
        assert row.failure is not None and row.failure.log_index == 41 and len(row.failure.words) == 500
        assert "builder" in node.workers.problems()[0]
        say(call, applied_index=41)
        await turns()
        assert node.rows()[0].failure is None, "an operator cleared it"
    assert not node.rows()
