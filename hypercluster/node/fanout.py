"""Who watches which workspace's log, and what reaches them (WS-51, CL-13).

Owns: the watches, their queues, and the moment a slow one is cut over to the op log.
Never: waits for a watcher; keeps a record that the op log does not have.
Invariants: a watch sees every log_index from the one it asked for, in order, without gaps and once; what is live is
encoded once for all its watchers; a watch's queue is bounded in events and bytes, and one that overflows reads on
from the store at its own pace until it has caught up; the cut-over and the way back happen within one turn of the
loop, so nothing can slip between store and queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypercluster import limits
from hypercluster.errors import HistoryGoneError, QueueFullError
from hypercluster.node.words import Turns
from hypercluster.telemetry.metrics import Metrics

FLUSH_EAGER_WATCHERS = 8  # up to here every turn's records go out at once
FLUSH_DELAY_S = 0.004  # beyond it they are gathered this long


class Slice(NamedTuple):
    """Consecutive LogBatch records of one workspace."""

    first_index: int
    last_index: int
    batches: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Head:
    """A workspace as of now."""

    log_index: int
    root: bytes


class OpLog:
    """What the fan-out reads; node/opening.py makes one over the store's queries."""

    def __init__(
        self,
        head: Callable[[bytes], Head | None],
        retained_from: Callable[[bytes], int],
        read: Callable[[bytes, int, int], Slice | None],
        bounds: Callable[[bytes], tuple[int, int]],
        replay_from: Callable[[bytes], int] | None = None,
        too_far: Callable[[bytes, Slice], str] = lambda _workspace_id, _slice: "",
        is_snapshot: Callable[[bytes, int], bool] = lambda _workspace_id, _log_index: False,
    ) -> None:
        """`read(workspace_id, from_index, bytes_max)`: at least one batch if there is any. `bounds(batch)`: its first
        and last log_index. `replay_from(workspace_id)`: where a watch may begin (WS-52), without it wherever the log
        does. `too_far(workspace_id, slice)`: why a watch that is to be sent this next is ended. `is_snapshot`: whether
        a snapshot of this log_index is kept."""
        self.head = head
        self.retained_from = retained_from
        self.read = read
        self.bounds = bounds
        self.replay_from = replay_from or retained_from
        self.too_far = too_far
        self.is_snapshot = is_snapshot


class _Event(NamedTuple):
    first_index: int
    last_index: int
    message: bytes


class Watch:
    """One watcher. Iterate with `next_message`, and `close` it."""

    __slots__ = (
        "_caught_up_told",
        "_fanout",
        "_from_snapshot",
        "_lagging",
        "_queue",
        "_queue_bytes",
        "_wake",
        "next_index",
        "workspace_id",
    )

    def __init__(self, fanout: Fanout, workspace_id: bytes, from_index: int, *, from_snapshot: bool = False) -> None:
        self._fanout = fanout
        self._from_snapshot = from_snapshot
        self.workspace_id = workspace_id
        self.next_index = from_index
        self._queue: deque[_Event] = deque()
        self._queue_bytes = 0
        self._lagging = True  # a watch begins in the op log
        self._caught_up_told = False
        self._wake = asyncio.Event()

    def offer(self, event: _Event) -> None:
        """Live records. Called by the fan-out; never waits."""
        if self._lagging:
            return
        if (
            len(self._queue) >= limits.WATCH_QUEUE_EVENTS_MAX
            or self._queue_bytes + len(event.message) > limits.WATCH_QUEUE_BYTES_MAX
        ):
            self._lagging = True
            self._fanout.metrics.watch_cutovers.inc()
            self._wake.set()  # nothing is queued for it where one event alone is too large
            return
        self._queue.append(event)
        self._queue_bytes += len(event.message)
        self._wake.set()

    def look_again(self) -> None:
        """The state was replaced: what came with it was never published."""
        self._lagging = True
        self._queue.clear()
        self._queue_bytes = 0
        self._wake.set()

    @property
    def queued_bytes(self) -> int:
        return self._queue_bytes

    @property
    def lagging(self) -> bool:
        return self._lagging

    async def next_message(self) -> bytes | Head:
        """A serialized slice, or the head once, when everything committed at the watch's begin has been sent. Raises
        HistoryGoneError when the log is not kept as far back as this watch is, or the watch lags too far (WS-52)."""
        while True:
            message = self._take_live()
            if message is not None:
                return message
            if self._lagging:
                found = self._read_on()
                if found is not None:
                    return found
                continue
            self._wake.clear()
            await self._wake.wait()

    def _take_live(self) -> bytes | None:
        while self._queue:
            event = self._queue.popleft()
            self._queue_bytes -= len(event.message)
            if event.last_index < self.next_index:
                continue  # the op log gave it already
            if event.first_index != self.next_index:
                # It begins before what is wanted: the rest of it is read from the op log.
                self._lagging = True
                self._queue.clear()
                self._queue_bytes = 0
                return None
            self.next_index = event.last_index + 1
            return event.message
        return None

    def _read_on(self) -> bytes | Head | None:
        """One step through the op log; None when it has just become live."""
        found = self._fanout.op_log.read(self.workspace_id, self.next_index, limits.WATCH_SLICE_BYTES)
        if found is not None:
            if found.first_index != self.next_index:
                raise HistoryGoneError(f"the log is kept from {found.first_index}; {self.next_index} is gone")
            why = self._fanout.op_log.too_far(self.workspace_id, found)
            if why and (self._caught_up_told or not self._from_snapshot):
                raise HistoryGoneError(f"a snapshot is needed: {why}")
            self.next_index = found.last_index + 1
            return self._fanout.encode(found)
        self._lagging = False
        if self._caught_up_told:
            return None
        self._caught_up_told = True
        return self._fanout.op_log.head(self.workspace_id) or Head(0, b"")

    def close(self) -> None:
        self._fanout.forget(self)


class Fanout:
    """All watches of a node. `publish` is called by the apply loop, after the store has the records."""

    def __init__(self, op_log: OpLog, turns: Turns, metrics: Metrics, encode: Callable[[Slice], bytes]) -> None:
        self.op_log = op_log
        self.metrics = metrics
        self.encode = encode
        self._turns = turns
        self._watches: dict[bytes, set[Watch]] = {}
        self._count = 0
        self._fresh: dict[bytes, list[bytes]] = {}  # published and not yet flushed

    def __len__(self) -> int:
        return self._count

    def watch(self, workspace_id: bytes, from_index: int, *, from_snapshot: bool = False) -> Watch:
        """`from_snapshot`: it follows a snapshot, whose building took its time: how far it lags counts once it has
        caught up."""
        if self._count >= limits.WATCHERS_MAX:
            raise QueueFullError(f"{self._count} watches are open on this node, limit WATCHERS_MAX: use another node")
        watch = Watch(self, workspace_id, from_index, from_snapshot=from_snapshot)
        self._watches.setdefault(workspace_id, set()).add(watch)
        self._count += 1
        self.metrics.watchers.set(self._count)
        return watch

    def forget(self, watch: Watch) -> None:
        watches = self._watches.get(watch.workspace_id, set())
        if watch not in watches:
            return
        watches.discard(watch)
        if not watches:
            del self._watches[watch.workspace_id]
            self._fresh.pop(watch.workspace_id, None)
        self._count -= 1
        self.metrics.watchers.set(self._count)

    def publish(self, workspace_id: bytes, batch: bytes) -> None:
        watches = self._watches.get(workspace_id)
        if not watches:
            return
        fresh = self._fresh.get(workspace_id)
        if fresh is not None:
            fresh.append(batch)
            return
        self._fresh[workspace_id] = [batch]
        if len(watches) <= FLUSH_EAGER_WATCHERS:
            self._turns.call_soon(lambda: self._flush(workspace_id))
        else:
            self._turns.call_at(self._turns.time() + FLUSH_DELAY_S, lambda: self._flush(workspace_id))

    def state_replaced(self) -> None:
        """Every watch reads on from the op log of the new state, whether or not anything is published again."""
        for watches in self._watches.values():
            for watch in watches:
                watch.look_again()

    def _flush(self, workspace_id: bytes) -> None:
        batches = self._fresh.pop(workspace_id, None)
        watches = self._watches.get(workspace_id)
        if not batches or not watches:
            return
        first, _ = self.op_log.bounds(batches[0])
        _, last = self.op_log.bounds(batches[-1])
        event = _Event(first, last, self.encode(Slice(first, last, batches)))
        for watch in watches:
            watch.offer(event)
