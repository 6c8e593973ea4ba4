"""Who watches locks and hazards on this node, and what reaches them (WS-40, WS-41, WS-46).

Owns: the watches, whose events each of them gets, their queues, and the moment a slow one is told to start over.
Never: waits for a watcher, or keeps an event beyond its queue: what counts is in the state.
Invariants: every node serves them, from the entries it applies; events come in the order in which they happened; a
watch that lost some is told to read the present list of locks, and then gets every event after that. An expiry is told
to those who wait behind the lock as well. A queue is bounded; an event is encoded once for all who get it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypercluster.errors import QueueFullError
from hypercluster.limits import EVENT_QUEUE_MAX, EVENT_WAITERS_TOLD_MAX, WATCHERS_MAX
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1.coordination_command_pb2 import HazardKind
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import CoordinationEvent, HazardEvent, LockRow
from hypercluster.state_machine.coordination.records import QUEUED, Target
from hypercluster.state_machine.store import Reader
from hypercluster.telemetry.metrics import Metrics

EXPIRING = int(pb.LOCK_EVENT_KIND_EXPIRING)

Encode = Callable[[int, CoordinationEvent], bytes]  # raft index, what happened


@dataclass(frozen=True, slots=True)
class Interest:
    """Whose events a watch wants: of these clients, or where there are none of this principal's, or everybody's.
    Hazards concern workers."""

    client_ids: frozenset[bytes]
    principal: str
    worker: str
    everything: bool = False

    def in_lock(self, lock: LockRow) -> bool:
        if self.everything:
            return True
        return lock.client_id in self.client_ids if self.client_ids else lock.principal == self.principal

    def in_hazard(self, hazard: HazardEvent) -> bool:
        return self.everything or (bool(self.worker) and self.worker in (hazard.worker, hazard.other_worker))


class EventWatch:
    """One watcher. Take what is there with `take`, wait for more with `changed`, and `close` it."""

    __slots__ = ("_fanout", "_queue", "_resync", "_wake", "interest", "workspace_id")

    def __init__(self, fanout: EventFanout, workspace_id: bytes, interest: Interest) -> None:
        self._fanout = fanout
        self.workspace_id = workspace_id
        self.interest = interest
        self._queue: deque[bytes] = deque()
        self._resync = True  # a watch begins with the list
        self._wake = asyncio.Event()

    def offer(self, event: bytes) -> None:
        if self._resync:
            return  # the list, which is read later, has it
        if len(self._queue) >= EVENT_QUEUE_MAX:
            self._fanout.metrics.event_resyncs.inc()
            self.start_over()
            return
        self._queue.append(event)
        self._wake.set()

    def start_over(self) -> None:
        self._queue.clear()
        self._resync = True
        self._wake.set()

    def take_resync(self) -> bool:
        """Whether the present list is to be sent first. It must be read in the turn of this call: events that are
        applied afterwards are queued again."""
        resync, self._resync = self._resync, False
        return resync

    def take(self) -> bytes | None:
        return self._queue.popleft() if self._queue else None

    async def changed(self) -> None:
        """Until there is something to take, or to start over."""
        while not (self._queue or self._resync):
            self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        self._fanout.forget(self)


class EventFanout:
    """All watches of a node. `publish` is called by the apply loop, after the store has the entry."""

    def __init__(self, reader: Reader, metrics: Metrics, encode: Encode, *, watchers_max: int = WATCHERS_MAX) -> None:
        self.metrics = metrics
        self._reader = reader
        self._encode = encode
        self._watchers_max = watchers_max
        self._watches: dict[bytes, dict[int, EventWatch]] = {}
        self._count = 0

    def watch(self, workspace_id: bytes, interest: Interest) -> EventWatch:
        """Raises QueueFullError."""
        if self._count >= self._watchers_max:
            raise QueueFullError(f"{self._count} watches of events are open here, limit WATCHERS_MAX: use another node")
        watch = EventWatch(self, workspace_id, interest)
        self._watches.setdefault(workspace_id, {})[id(watch)] = watch
        self._count += 1
        self.metrics.event_watchers.set(self._count)
        return watch

    def forget(self, watch: EventWatch) -> None:
        watches = self._watches.get(watch.workspace_id, {})
        if watches.pop(id(watch), None) is None:
            return
        if not watches:
            del self._watches[watch.workspace_id]
        self._count -= 1
        self.metrics.event_watchers.set(self._count)

    def publish(self, index: int, events: Sequence[tuple[bytes, CoordinationEvent]]) -> None:
        for workspace_id, event in events:
            if isinstance(event, HazardEvent):
                self.metrics.hazards.labels(hazard_name(event.kind)).inc()
            watches = self._watches.get(workspace_id)
            if not watches:
                continue
            concerned = self._concerned(event, list(watches.values()))
            if concerned:
                message = self._encode(index, event)
                for watch in concerned:
                    watch.offer(message)

    def _concerned(self, event: CoordinationEvent, watches: Sequence[EventWatch]) -> list[EventWatch]:
        if isinstance(event, HazardEvent):
            return [watch for watch in watches if watch.interest.in_hazard(event)]
        rows = [event.lock]
        if event.kind == EXPIRING:
            rows += self._behind(event.lock)
        return [watch for watch in watches if any(watch.interest.in_lock(row) for row in rows)]

    def _behind(self, lock: LockRow) -> list[LockRow]:
        """The first of those who wait for the same target, as the state has them now."""
        target = Target(lock.inode_id, lock.name)
        page = queries.locks_of_target(self._reader, lock.workspace_id, target, lock.lock_id, EVENT_WAITERS_TOLD_MAX)
        return [row for row in page.rows if row.state == QUEUED]

    def state_replaced(self) -> None:
        """A checkpoint was installed: what came with it was never published."""
        for watches in self._watches.values():
            for watch in watches.values():
                watch.start_over()


def hazard_name(kind: int) -> str:
    """A metric's label: one of a few."""
    known = HazardKind.DESCRIPTOR.values_by_number.get(kind)
    return "unknown" if known is None else known.name.removeprefix("HAZARD_KIND_").lower()
