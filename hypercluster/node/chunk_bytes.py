"""Deletes the bytes of chunks that no workspace has any more, later and on each node for itself (WS-54).

Owns: the walk over the chunk store, the deletion of what it found to be nobody's, and the reclaiming of space.
Never: decides that a chunk is absent: the state says so; holds up the loop.
Invariants: bytes go only if the state is without the chunk now and was at every moment since it was found so, at an
index that the flushed state and every kept checkpoint have reached: so neither a restart nor a node that takes one of
our checkpoints can need them. Not before KEEP_S, for transfers that are under way, and not while a checkpoint comes in,
whose chunks are here before its state is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Protocol

from hypercluster.errors import DiskFullError
from hypercluster.limits import MIB
from hypercluster.node.waiting_chunks import WaitingChunks
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.chunks import is_held, organisations
from hypercluster.storage.runner import Runner
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ChunkHash, Index

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
WALKED_A_LOOK: Final = 1_000
DELETED_A_LOOK: Final = 500
ROUND_S: Final = 600.0  # between two walks over all chunks
KEEP_S: Final = 1_800.0
RECLAIM_EVERY_S: Final = 60.0
RECLAIM_LIVE_BYTES_MAX: Final = 256 * MIB


class Bytes(Protocol):
    """What is needed of the chunk store."""

    def put(self, chunk_hash: ChunkHash, content: bytes) -> bool: ...

    def hashes(self, after: bytes = b"") -> Iterator[ChunkHash]:
        """In order, from the one after `after`."""

    def delete(self, chunk_hash: ChunkHash) -> bool: ...

    def reclaim(self, bytes_max: int) -> int: ...


class ChunkBytes:
    """`apply_loop.ChunkSink` in front of the chunk store, so that a chunk that comes back is not taken for gone. `look`
    is called now and then by the lifecycle."""

    def __init__(
        self,
        chunks: Bytes,
        reader: Reader,
        runner: Runner,
        clock: Clock,
        metrics: Metrics,
        *,
        applied_index: Callable[[], Index],
        durable_index: Callable[[], Index],
        receiving: Callable[[], bool],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """`durable_index`: what the flushed state and every kept checkpoint have reached; `receiving`: whether a
        checkpoint comes in; `runner` is the one that syncs chunks."""
        self._chunks = chunks
        self._reader = reader
        self._runner = runner
        self._clock = clock
        self._metrics = metrics
        self._applied_index = applied_index
        self._durable_index = durable_index
        self._receiving = receiving
        self._on_fatal = on_fatal
        self._walk: Iterator[ChunkHash] | None = None
        self._after = b""  # where the walk goes on when it was broken off
        self._waiting = WaitingChunks()
        self._due_s = self._walk_due_s = self._reclaim_due_s = 0.0
        self._reclaiming = False
        self._deleted = True  # perhaps: by a life before this one, which ended before the space came back
        self.freed_bytes = 0  # since the node was started

    def put(self, chunk_hash: ChunkHash, content: bytes) -> bool:
        self._waiting.came_back(chunk_hash)
        return self._chunks.put(chunk_hash, content)

    def state_replaced(self) -> None:
        """What was found says nothing of a state that came from elsewhere."""
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many wait to be deleted."""
        return len(self._waiting)

    def look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._due_s or self._reclaiming:
            return
        self._due_s = now_s + LOOK_S
        owners = organisations(self._reader)
        self._walk_on(owners, now_s)
        if not self._receiving():
            self._delete(owners, now_s)
        if self._deleted and now_s >= self._reclaim_due_s:
            self._deleted = False
            self._reclaim_due_s = now_s + RECLAIM_EVERY_S
            self._reclaim()

    def _walk_on(self, owners: list[bytes], now_s: float) -> None:
        """A walk begins when nothing waits from the one before, so that nothing is found twice."""
        looked_at = min(WALKED_A_LOOK, self._waiting.room)
        if not looked_at:
            self._walk = None  # it goes on when there is room, and holds up no compaction of the index until then
            return
        if self._walk is None:
            if not self._after and (now_s < self._walk_due_s or self._waiting):
                return
            self._walk = self._chunks.hashes(self._after)
        index, found, walked = self._applied_index(), [], 0
        for chunk_hash in islice(self._walk, looked_at):
            walked += 1
            self._after = chunk_hash
            if not is_held(self._reader, owners, chunk_hash):
                found.append(chunk_hash)
        self._waiting.add(index, now_s, found)
        if walked < looked_at:
            self._walk, self._after = None, b""
            self._walk_due_s = now_s + ROUND_S

    def _delete(self, owners: list[bytes], now_s: float) -> None:
        durable_index = self._durable_index()

        def may_go(index: Index, found_s: float) -> bool:
            return now_s >= found_s + KEEP_S and index <= durable_index

        for chunk_hash in self._waiting.take(DELETED_A_LOOK, may_go):
            if not is_held(self._reader, owners, chunk_hash):
                self._deleted = self._chunks.delete(chunk_hash) or self._deleted

    def _reclaim(self) -> None:
        freed: list[int] = []
        self._reclaiming = True
        self._walk = None  # it reads an index that is about to change
        self._runner.submit(lambda: freed.append(self._chunks.reclaim(RECLAIM_LIVE_BYTES_MAX)), self._reclaimed(freed))

    def _reclaimed(self, freed: list[int]) -> Callable[[BaseException | None], None]:
        def done(error: BaseException | None) -> None:
            self._reclaiming = False
            if isinstance(error, DiskFullError):
                log.warning("space of deleted chunks is not reclaimed yet", extra={"fields": {"why": str(error)}})
            elif error is not None:
                self._on_fatal(error)
            elif freed and freed[0]:
                self.freed_bytes += freed[0]
                self._metrics.gc_freed_bytes.inc(freed[0])
                self._deleted = True  # there may be another segment

        return done

    def close(self) -> None:
        """Lets go of the chunk store's index."""
        self._walk = None
        self._waiting.clear()
