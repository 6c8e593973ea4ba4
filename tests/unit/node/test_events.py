"""What befalls locks reaches whom it concerns, on every node (WS-40, WS-41, WS-46)."""

from __future__ import annotations

import asyncio

import pytest

from hypercluster.errors import QueueFullError
from hypercluster.limits import EVENT_QUEUE_MAX
from hypercluster.node.events import EventFanout, EventWatch, Interest
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.rpc.lock_messages import encode_event
from hypercluster.state_machine.coordination.events import HazardEvent
from hypercluster.state_machine.store import MemoryStore
from hypercluster.telemetry.metrics import Metrics
from tests.unit.node.commands import client
from tests.unit.node.locks import BOB, GRACE_S, TTL_S, LockNode, acquire, release

NAMES = {int(number): name.removeprefix("LOCK_EVENT_KIND_") for name, number in pb.LockEventKind.items()}


def watching(node: LockNode, *lanes: int, worker: str = "", everything: bool = False) -> EventWatch:
    clients = frozenset(client(lane) for lane in lanes)
    interest = Interest(clients, f"client:{worker}" if worker else "", worker, everything=everything)
    watch = node.events.watch(node.workspace_id, interest)
    assert watch.take_resync(), "a watch begins with the list"
    return watch


def heard(watch: EventWatch) -> list[tuple[str, int]]:
    """(what happened, to the lock of which lane)."""
    found = []
    while (message := watch.take()) is not None:
        event = pb.CoordinationEvent.FromString(message)
        found.append((NAMES[event.lock.kind], int.from_bytes(event.lock.lock.client_id, "big")))
    return found


@pytest.mark.req("WS-40", "WS-41")
async def test_the_holder_is_warned_and_who_waits_behind_it_is_told_and_then_granted() -> None:
    node = LockNode()
    holder, waiter, other = watching(node, 1), watching(node, 2), watching(node, 3)
    first = node.lock(1, acquire("build"))
    second = node.lock(2, acquire("build"), BOB)
    node.lock(3, acquire("test"))
    assert heard(holder) == [("GRANTED", 1)]
    assert heard(waiter) == [("QUEUED", 2)]
    for _ in range(3):
        node.pass_time(2)
        await node.renew((second.lock_id, 0), caller=BOB)
    assert heard(holder) == [("EXPIRING", 1)]
    assert heard(waiter) == [("EXPIRING", 1)], "LOCK_HELD_EXPIRING: its turn may come soon"
    await node.renew((first.lock_id, first.token))
    assert heard(holder) == [("RENEWED", 1)]
    node.pass_time(TTL_S + 0.5)
    assert heard(waiter) == [("EXPIRING", 1)]
    node.pass_time(GRACE_S)
    assert heard(holder) == [("EXPIRING", 1), ("LOST", 1)]
    assert heard(waiter) == [("GRANTED", 2)]
    assert heard(other)[0] == ("GRANTED", 3), "and nothing of the others' lock"


async def test_interest_is_by_client_by_worker_or_in_everything() -> None:
    node = LockNode()
    mine, bobs, every = watching(node, 1), watching(node, worker="bob"), watching(node, everything=True)
    nobody = watching(node, worker="carol")
    held = node.lock(1, acquire("build"))
    node.lock(2, acquire("test"), BOB)
    node.lock(1, release(held.lock_id))
    assert heard(mine) == [("GRANTED", 1), ("RELEASED", 1)]
    assert heard(bobs) == [("GRANTED", 2)]
    assert heard(every) == [("GRANTED", 1), ("GRANTED", 2), ("RELEASED", 1)]
    assert heard(nobody) == []
    every.close()
    every.close()
    node.lock(1, acquire("build"))
    assert heard(every) == []


@pytest.mark.req("WS-46")
async def test_hazards_go_to_both_workers_and_are_counted() -> None:
    metrics, store = Metrics(), MemoryStore()
    fanout = EventFanout(store, metrics, encode_event)
    watches = [
        fanout.watch(b"w" * 16, Interest(frozenset(), f"client:{name}", name)) for name in ("alice", "bob", "carol", "")
    ]
    for watch in watches:
        watch.take_resync()
    hazard = HazardEvent(1, 7, 9, b"i" * 16, "alice", "agent-1", "bob", "agent-2", b"a/b")
    fanout.publish(12, [(b"w" * 16, hazard), (b"v" * 16, hazard)])
    told = [watch.take() for watch in watches]
    assert told[0] == told[1] and told[0] is not None and told[2:] == [None, None]
    event = pb.CoordinationEvent.FromString(told[0])
    assert (event.raft_index, event.hazard.log_index, event.hazard.hazard.conflicting_log_index) == (12, 9, 7)
    assert metrics.hazards.labels("overlapping_write")._value.get() == 2


@pytest.mark.req("CL-13")
async def test_a_watch_that_overflows_starts_over_and_then_misses_nothing() -> None:
    node = LockNode()
    watch = watching(node, 1)
    for number in range(EVENT_QUEUE_MAX // 2):
        held = node.lock(1, acquire(f"l{number}"))
        node.lock(1, release(held.lock_id))
    kept = node.lock(1, acquire("kept"))
    assert watch.take() is None, "what was queued is not sent: the list has it"
    assert watch.take_resync() and not watch.take_resync()
    node.lock(1, release(kept.lock_id))
    await asyncio.wait_for(watch.changed(), 1)
    assert heard(watch) == [("RELEASED", 1)]
    assert node.metrics.event_resyncs._value.get() == 1


async def test_an_installed_state_makes_every_watch_start_over() -> None:
    node = LockNode()
    watch = watching(node, 1)
    node.lock(1, acquire("build"))
    node.events.state_replaced()
    assert watch.take_resync() and watch.take() is None


@pytest.mark.req("CL-13")
async def test_watches_are_bounded() -> None:
    fanout = EventFanout(MemoryStore(), Metrics(), encode_event, watchers_max=2)
    interest = Interest(frozenset(), "", "", everything=True)
    watches = [fanout.watch(b"w" * 16, interest) for _ in range(2)]
    with pytest.raises(QueueFullError, match="WATCHERS_MAX"):
        fanout.watch(b"w" * 16, interest)
    fanout.forget(watches[0])
    fanout.watch(b"w" * 16, interest)
