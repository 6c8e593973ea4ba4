"""Watches of workspace logs: gap-free whatever the pace of the watcher (WS-51, CL-13)."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.errors import HistoryGoneError, QueueFullError
from hypercluster.limits import WATCH_QUEUE_BYTES_MAX, WATCH_QUEUE_EVENTS_MAX, WATCHERS_MAX
from hypercluster.node.fanout import Fanout, Head, OpLog, Slice, Watch
from hypercluster.telemetry.metrics import Metrics
from tests.fakes.virtual_turns import VirtualTurns

W = b"w" * 16


class Log:
    """An op log whose batches are "first-last" in ASCII."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.last = 0

    def append(self, count: int) -> bytes:
        batch = f"{self.last + 1}-{self.last + count}".encode()
        self.last += count
        self.batches.append(batch)
        return batch

    def op_log(self) -> OpLog:
        return OpLog(lambda _: Head(self.last, b"root"), lambda _: 1, self.read, bounds)

    def read(self, _: bytes, from_index: int, bytes_max: int) -> Slice | None:
        found = [b for b in self.batches if bounds(b)[1] >= from_index]
        if not found:
            return None
        part = found[:3]
        first = max(from_index, bounds(part[0])[0])
        return Slice(first, bounds(part[-1])[1], part)


def bounds(batch: bytes) -> tuple[int, int]:
    first, last = batch.split(b"-")
    return int(first), int(last)


def encode(part: Slice) -> bytes:
    return f"{part.first_index}-{part.last_index}".encode()


class World:
    def __init__(self) -> None:
        self.turns = VirtualTurns()
        self.log = Log()
        self.metrics = Metrics()
        self.fanout = Fanout(self.log.op_log(), self.turns, self.metrics, encode)

    def commit(self, count: int = 1) -> None:
        self.fanout.publish(W, self.log.append(count))

    async def drain(self, watch: Watch) -> list[bytes | Head]:
        """All that the watch has now."""
        self.turns.pass_time(0.01)
        got: list[bytes | Head] = []
        while True:
            task = asyncio.ensure_future(watch.next_message())
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
                return got
            got.append(task.result())


def covered(messages: list[bytes | Head]) -> list[int]:
    out: list[int] = []
    for message in messages:
        if isinstance(message, bytes):
            first, last = bounds(message)
            out += range(first, last + 1)
    return out


@pytest.mark.req("WS-51")
async def test_history_first_then_live_without_a_gap() -> None:
    world = World()
    for _ in range(10):
        world.commit(3)
    watch = world.fanout.watch(W, 5)
    got = [await watch.next_message() for _ in range(3)]
    assert covered(got) == list(range(5, 31))
    assert await watch.next_message() == Head(30, b"root")
    world.commit(2)
    world.turns.settle()
    assert await watch.next_message() == b"31-32"
    watch.close()
    assert len(world.fanout) == 0


@pytest.mark.req("CL-13", "WS-51")
async def test_a_slow_watcher_is_cut_over_and_the_others_are_not_held_up() -> None:
    world = World()
    slow, quick = world.fanout.watch(W, 1), world.fanout.watch(W, 1)
    got: list[bytes | Head] = [*await world.drain(quick)]
    await world.drain(slow)
    for _ in range(WATCH_QUEUE_EVENTS_MAX + 50):
        world.commit()
        got += await world.drain(quick)
    assert covered(got) == list(range(1, world.log.last + 1))
    assert slow.lagging and world.metrics.watch_cutovers._value.get() == 1
    late = await world.drain(slow)
    assert covered(late) == list(range(1, world.log.last + 1))
    assert sum(isinstance(m, Head) for m in late) == 0, "caught-up is said once, at the beginning"


@pytest.mark.req("CL-13", "WS-51")
async def test_an_event_too_large_for_the_queue_wakes_a_waiting_watch() -> None:
    world = World()
    watch = world.fanout.watch(W, 1)
    await world.drain(watch)
    waiting = asyncio.ensure_future(watch.next_message())
    await asyncio.sleep(0)
    world.fanout.encode = lambda part: encode(part).ljust(WATCH_QUEUE_BYTES_MAX + 1)
    world.commit(2)
    world.turns.settle()
    assert bounds((await asyncio.wait_for(waiting, 1)).strip()) == (1, 2)  # type: ignore[union-attr]


@pytest.mark.req("WS-51", "CL-8")
async def test_a_live_watch_gets_what_an_installed_checkpoint_brought() -> None:
    """Nothing of it was published, and nothing may be written after it for hours."""
    world = World()
    watch = world.fanout.watch(W, 1)
    world.commit()
    got = await world.drain(watch)
    waiting = asyncio.ensure_future(watch.next_message())
    await asyncio.sleep(0)
    world.log.append(3)
    world.fanout.state_replaced()
    got.append(await asyncio.wait_for(waiting, 1))
    world.commit()
    got += await world.drain(watch)
    assert covered(got) == [1, 2, 3, 4, 5]


@pytest.mark.req("WS-51")
async def test_a_watch_behind_what_is_kept_is_told_and_gets_no_gap() -> None:
    world = World()
    watch = world.fanout.watch(W, 1)
    world.commit()
    await world.drain(watch)
    world.log.append(3)
    world.log.append(1)
    del world.log.batches[:2]  # the new state keeps less than this watch lacks
    world.fanout.state_replaced()
    with pytest.raises(HistoryGoneError):
        await watch.next_message()


async def test_what_is_live_is_encoded_once_for_all() -> None:
    world = World()
    watches = [world.fanout.watch(W, 1) for _ in range(20)]
    for watch in watches:
        await world.drain(watch)
    world.commit(2)
    world.commit(2)
    world.turns.pass_time(0.01)
    messages = [await watch.next_message() for watch in watches]
    assert all(m is messages[0] for m in messages) and messages[0] == b"1-4"


async def test_watches_are_bounded() -> None:
    world = World()
    for _ in range(WATCHERS_MAX):
        world.fanout.watch(W, 1)
    with pytest.raises(QueueFullError):
        world.fanout.watch(W, 1)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
@pytest.mark.req("WS-51")
async def test_any_interleaving_is_gap_free(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    for _ in range(rng.randint(0, 8)):
        world.commit(rng.randint(1, 3))
    begin = rng.randint(1, world.log.last + 1)
    watch = world.fanout.watch(W, begin)
    got: list[bytes | Head] = []
    for _ in range(120):
        step = rng.random()
        if step < 0.5:
            world.commit(rng.randint(1, 3))
        elif step < 0.7:
            world.turns.settle()
        else:
            task = asyncio.ensure_future(watch.next_message())
            await asyncio.sleep(0)
            if task.done():
                got.append(task.result())
            else:
                task.cancel()
    got += await world.drain(watch)
    assert covered(got) == list(range(begin, world.log.last + 1)), f"seed {seed}"
