"""The engine's host: from a committed entry to stored state, answers and events (docs/architecture.md, step 6).

Owns: the order of an entry's effects: judge, put chunk bytes, store changes with index and digest, tell readers
and watchers; how long apply may keep the loop; the digests of recent indexes (CL-17).
Never: judges (the machine does), touches the disk itself, retries: what raises here stops the node (CL-16).
Invariants: nobody hears of an entry before the store has it; entries are applied in index order, each once; after
APPLY_TURN_US in one turn of the loop `ready()` is False until the next turn, while the store stalls, and while there
is no room on the disk: then the log holds what is to come, and nothing that apply needs can fail for want of room.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from hypercluster import limits
from hypercluster.errors import ApplyFailedError, DiskFailedError, DiskFullError, HyperClusterError
from hypercluster.log.entry import decode_entry
from hypercluster.node.fanout import Fanout
from hypercluster.node.words import Turns
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.coordination.events import CoordinationEvent
from hypercluster.state_machine.decoded import DecodedEntry
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.outcome import Applied, MarkedSnapshot, TrimmedLog
from hypercluster.state_machine.store import Change
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ChunkHash, Digest, Index, Term

log = logging.getLogger(__name__)

Events = Sequence[tuple[bytes, CoordinationEvent]]

STALL_LOOK_S = 0.005
ROOM_LOOK_S = 0.25
ROOM_SEEN_S = 0.05  # far less than it takes to fill what is kept free


class StateStore(Protocol):
    """What the loop needs of the node's state (storage/rocks.py)."""

    def commit(
        self, index: Index, term: Term, digest: Digest, changes: Iterable[Change], last_stamp_ns: int = 0
    ) -> None: ...

    def stalled(self) -> bool: ...


class ChunkSink(Protocol):
    """What the loop needs of the chunk store. A put is buffered; the store syncs it before it flushes (CL-8)."""

    def put(self, chunk_hash: ChunkHash, content: bytes) -> bool: ...


class ApplyLoop:
    """`raft.engine.Host`. One a node."""

    def __init__(
        self,
        machine: Machine,
        store: StateStore,
        chunks: ChunkSink,
        fanout: Fanout,
        turns: Turns,
        clock: Clock,
        metrics: Metrics,
        *,
        on_applied: Callable[[int], None],
        on_events: Callable[[int, Events], None] = lambda _, __: None,
        on_replaced: Callable[[], None] = lambda: None,
        wake: Callable[[], None],
        has_room: Callable[[], bool] = lambda: True,
        on_snapshots: Callable[[Sequence[MarkedSnapshot]], None] = lambda _: None,
        on_trimmed: Callable[[Sequence[TrimmedLog]], None] = lambda _: None,
    ) -> None:
        """`on_events` is told an index and what coordination did there, `on_replaced` that nothing told before holds.
        `wake` asks the engine for a tick once `ready()` may be True again; `has_room` is asked every ROOM_SEEN_S.
        `on_snapshots` is called while the store shows exactly what the entry that marked them left, `on_trimmed` before
        the store is without the records."""
        self._machine = machine
        self._store = store
        self._chunks = chunks
        self._fanout = fanout
        self._turns = turns
        self._clock = clock
        self._metrics = metrics
        self._on_applied = on_applied
        self._on_events = on_events
        self._on_replaced = on_replaced
        self._wake = wake
        self._has_room = has_room
        self._on_snapshots = on_snapshots
        self._on_trimmed = on_trimmed
        self._short_of_room = False
        self._room_until_s = 0.0  # until then it is taken for granted
        self._turn_began_s = 0.0  # 0: nothing was applied in this turn yet
        self._paused = False
        self._digests: OrderedDict[Index, Digest] = OrderedDict()
        self._note(machine.applied.index, machine.applied.digest)

    @property
    def applied_index(self) -> Index:
        return self._machine.applied.index

    def apply(self, index: Index, term: Term, payload: bytes, context: object) -> Applied:
        began_s = self._clock.monotonic()
        self._begin_turn(began_s)
        try:
            entry = context if isinstance(context, DecodedEntry) else decode_entry(payload)
        except HyperClusterError as error:
            raise ApplyFailedError(f"entry {index} of term {term} can not be read: {error}", index) from error
        applied = self._machine.apply(index, term, entry)
        try:
            for chunk_hash, content in applied.chunks.items():
                self._chunks.put(ChunkHash(chunk_hash), content)
        except DiskFullError as error:  # the room went within one turn
            raise _no_room(index, error) from error
        if applied.trimmed:
            self._on_trimmed(applied.trimmed)
        self._finish(applied)
        for workspace_id, batch in applied.log_batches.items():
            self._fanout.publish(workspace_id, batch)
        if applied.snapshots:
            self._metrics.snapshots_marked.inc(len(applied.snapshots))
            self._on_snapshots(applied.snapshots)
        if applied.absent:
            self._metrics.gc_chunks.inc(len(applied.absent))
            self._metrics.gc_bytes.inc(sum(applied.absent.values()))
        if applied.events:
            self._on_events(applied.index, applied.events)
        self._metrics.apply_seconds.observe(self._clock.monotonic() - began_s)
        return applied

    def advance(self, index: Index, term: Term) -> None:
        self._begin_turn(self._clock.monotonic())
        self._finish(self._machine.advance(index, term))

    def _finish(self, applied: Applied) -> None:
        try:
            self._store.commit(applied.index, applied.term, applied.digest, applied.changes, applied.last_stamp_ns)
        except DiskFullError as error:  # a flush that found no room
            raise _no_room(applied.index, error) from error
        self._note(applied.index, applied.digest)
        self._metrics.entries_applied.inc()
        self._on_applied(applied.index)

    def _note(self, index: Index, digest: Digest) -> None:
        self._digests[index] = digest
        if len(self._digests) > limits.DIGESTS_KEPT:
            self._digests.popitem(last=False)

    def digest_at(self, index: Index) -> Digest | None:
        return self._digests.get(index)

    def state_replaced(self) -> None:
        """A checkpoint was installed underneath: nothing remembered of the old state holds."""
        self._machine.discard()
        self._digests.clear()
        self._note(self._machine.applied.index, self._machine.applied.digest)
        self._on_applied(self._machine.applied.index)
        self._fanout.state_replaced()
        self._on_replaced()

    # -- pace -------------------------------------------------------------------------------------

    def ready(self) -> bool:
        if self._paused:
            return False
        if self._turn_began_s and (self._clock.monotonic() - self._turn_began_s) * 1e6 > limits.APPLY_TURN_US:
            self._paused = True  # _end_turn comes with the next turn, and wakes the engine
            return False
        if self._store.stalled():
            self._paused = True
            self._turns.call_at(self._turns.time() + STALL_LOOK_S, self._resume)
            return False
        if not self._turn_began_s and not self._look_for_room():
            self._paused = True
            self._turns.call_at(self._turns.time() + ROOM_LOOK_S, self._resume)
            return False
        return True

    def _look_for_room(self) -> bool:
        now_s = self._clock.monotonic()
        if now_s < self._room_until_s:
            return True
        room = self._has_room()
        self._room_until_s = now_s + ROOM_SEEN_S if room else 0.0
        if room == self._short_of_room:
            self._short_of_room = not room
            words = "apply goes on: there is room" if room else "apply waits: no room on the disk"
            log.log(logging.WARNING if room else logging.ERROR, words)
        return room

    def _begin_turn(self, now_s: float) -> None:
        if not self._turn_began_s:
            self._turn_began_s = now_s or 1e-9
            self._turns.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_began_s = 0.0
        if not self._paused:
            return
        if self._store.stalled():
            self._turns.call_at(self._turns.time() + STALL_LOOK_S, self._resume)
        else:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        self._wake()


def _no_room(index: Index, error: DiskFullError) -> DiskFailedError:
    """The entry is sound, so this must not pass for a failure of apply, which is mended by quarantining the command."""
    return DiskFailedError(f"entry {index} can not be stored: {error}. Make room and start the node")
