"""Reads at the freshness they ask for (CL-10)."""

from __future__ import annotations

import asyncio

import pytest

from hypercluster.errors import (
    BehindError,
    MalformedError,
    NoQuorumError,
    NotLeaderError,
    QueueFullError,
    WrongClusterError,
)
from hypercluster.node.reads import STALENESS_UNKNOWN_MS, Reads, ReadWish
from hypercluster.node.standing import Standing
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ClusterId, HistoryId, Index, NodeId, ReadLevel
from tests.fakes.scripted_engine import ScriptedEngine


class World:
    """Over the test's own loop: only the engine is scripted."""

    def __init__(self, pending_max: int = 100) -> None:
        self.engine = ScriptedEngine()
        self.applied = Index(10)
        self.staleness_ms: int | None = 40
        loop = asyncio.get_running_loop()
        self.standing = Standing(self.engine, loop, lambda node_id: f"{node_id}:7801")
        self.reads = Reads(
            self.engine,
            self.standing,
            lambda: self.applied,
            lambda: self.staleness_ms,
            loop,
            Metrics(),
            node_id=NodeId("n1"),
            cluster_id=ClusterId(b"c" * 16),
            history_id=HistoryId(b"h" * 16),
            pending_max=pending_max,
        )

    def apply(self, index: int) -> None:
        self.applied = Index(index)
        self.reads.on_applied(index)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.req("CL-10")
async def test_reads_of_one_turn_share_a_round_and_wait_for_it() -> None:
    world = World()
    waiting = [asyncio.create_task(world.reads.point(ReadWish(), 5)) for _ in range(20)]
    await turn()
    assert len(world.engine.reads) == 1, "one round for all"
    assert not any(task.done() for task in waiting), "belief is no confirmation"
    world.engine.confirm_reads(10)
    points = await asyncio.gather(*waiting)
    assert {(p.applied_index, p.staleness_ms, p.term) for p in points} == {(10, 0, 3)}
    later = asyncio.create_task(world.reads.point(ReadWish(), 5))
    await turn()
    assert len(world.engine.reads) == 1, "a read that arrives later needs a round of its own"
    world.engine.confirm_reads(10)
    await later


@pytest.mark.req("CL-10")
async def test_a_confirmed_index_is_waited_for() -> None:
    world = World()
    task = asyncio.create_task(world.reads.point(ReadWish(), 5))
    await turn()
    world.engine.confirm_reads(12)
    await turn()
    assert not task.done()
    world.apply(11)
    await turn()
    assert not task.done()
    world.apply(12)
    assert (await task).applied_index == 12


@pytest.mark.req("CL-10", "CL-13")
async def test_no_linearizable_read_without_leadership() -> None:
    world = World()
    task = asyncio.create_task(world.reads.point(ReadWish(), 5))
    await turn()
    world.engine.fail_reads("NOT_LEADER", "n2")
    with pytest.raises(NotLeaderError) as refused:
        await task
    assert refused.value.leader_hint == "n2:7801"
    task = asyncio.create_task(world.reads.point(ReadWish(), 5))
    await turn()
    world.engine.fail_reads("NO_QUORUM")
    with pytest.raises(NoQuorumError):
        await task
    world.engine.follow("n3")
    world.standing.forget()
    await turn()
    for level in (ReadLevel.LINEARIZABLE, ReadLevel.LEADER_LOCAL):
        with pytest.raises(NotLeaderError):
            await world.reads.point(ReadWish(level), 5)


@pytest.mark.req("CL-10")
async def test_bounded_stale_says_how_stale_and_refuses_what_is_too_old() -> None:
    world = World()
    world.engine.follow("n2")
    world.standing.forget()
    point = await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE), 5)
    assert point.staleness_ms == 40
    await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE, staleness_max_ms=40), 5)
    with pytest.raises(BehindError, match="up to 40 ms old, limit 39"):
        await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE, staleness_max_ms=39), 5)
    world.staleness_ms = None
    assert (await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE), 5)).staleness_ms == STALENESS_UNKNOWN_MS
    with pytest.raises(BehindError, match="unknown age"):
        await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE, staleness_max_ms=10_000), 5)


@pytest.mark.req("CL-10")
async def test_min_index_is_waited_for_within_the_deadline_only() -> None:
    world = World()
    wish = ReadWish(ReadLevel.BOUNDED_STALE, min_index=15)
    task = asyncio.create_task(world.reads.point(wish, 5))
    await turn()
    assert not task.done()
    world.apply(15)
    assert (await task).applied_index == 15
    with pytest.raises(BehindError, match="min_index 99"):
        await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE, min_index=99), 0.02)
    assert world.reads.pending == 0


@pytest.mark.req("CL-13")
async def test_waiting_reads_are_bounded() -> None:
    world = World(pending_max=3)
    tasks = [
        asyncio.create_task(world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE, min_index=99), 5)) for _ in range(3)
    ]
    await turn()
    with pytest.raises(QueueFullError):
        await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE), 5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE), 5)).applied_index == 10


async def test_a_thousand_abandoned_waits_leave_nothing_behind() -> None:
    world = World(pending_max=10_000)
    for _ in range(300):
        with pytest.raises(BehindError):
            await world.reads.point(ReadWish(ReadLevel.BOUNDED_STALE, min_index=10_000), 0.0)
    assert len(world.reads._waits) <= 2 * world.reads.pending + 17


async def test_wrong_cluster_and_nonsense_are_refused() -> None:
    world = World()
    with pytest.raises(WrongClusterError):
        await world.reads.point(ReadWish(cluster_id=b"x" * 16), 5)
    with pytest.raises(MalformedError, match="staleness_max_ms"):
        await world.reads.point(ReadWish(staleness_max_ms=5), 5)
