"""Content-addressed chunk bytes in append-only segments (CL-8).

Owns: DATA/chunks: segment files and their index; damaged records and space reclaim.
Never: returns bytes that are not the hash's; keeps content in memory; decides which chunks are wanted.
Invariants: content is written once, and nothing but small index rows beside it (PERF-6). A put that is not synced
may vanish in a crash and never comes back torn. The index names durable records only: places reach it after
their segment's sync. A segment is unlinked only when the flushed index no longer names it.
Threads: puts and reads on the loop; `sync` and `reclaim` beside it, one at a time. `_lock` guards the maps and
is never held over a sync.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from typing import Final, Protocol

from blake3 import blake3

from hypercluster.errors import DiskFailedError, DiskFullError
from hypercluster.limits import CHUNK_BYTES_MAX, MIB
from hypercluster.storage.chunk_files import SEGMENT_BYTES, SegmentFiles
from hypercluster.storage.chunk_index import ChunkIndex
from hypercluster.storage.chunk_segment import (
    SEGMENT_HEADER_BYTES,
    Place,
    encode_record,
    read_record,
    scan,
    segment_name,
)
from hypercluster.storage.disk import Disk
from hypercluster.storage.runner import Done, Runner
from hypercluster.values import ChunkHash

SYNC_BYTES: Final = 8 * MIB  # a sync starts by itself at so many unsynced bytes, so that a flush waits for few
INDEX_FLUSH_BYTES: Final = 256 * MIB  # at most so much is scanned again at open
DAMAGED_MAX: Final = 10_000  # remembered at a time; more are found again when they are read
RECLAIM_DEAD_SHARE: Final = 0.5  # a segment is worth moving when so much of it is dead
RECOVER_CHUNKS: Final = 50_000  # indexed at a time while segments are scanned


class Codec(Protocol):
    """How content stands in a segment. A stored form is CHUNK_BYTES_MAX long at most."""

    def encode(self, content: bytes) -> bytes: ...

    def decode(self, stored: bytes) -> bytes | None:
        """None: not what `encode` makes."""


class AsItIs:
    """Content of chunks: it is what it is, and clients have compressed what they wanted to."""

    def encode(self, content: bytes) -> bytes:
        return content

    def decode(self, stored: bytes) -> bytes | None:
        return stored


class _Epoch:
    """What was put and removed between two syncs. A hash is in at most one of the two."""

    __slots__ = ("places", "removed")

    def __init__(self) -> None:
        self.places: dict[ChunkHash, Place] = {}
        self.removed: set[ChunkHash] = set()


class ChunkStore:
    """`segment_bytes` is chosen smaller by tests only."""

    def __init__(
        self,
        path: str,
        disk: Disk,
        runner: Runner,
        *,
        on_damaged: Callable[[ChunkHash, str], None] = lambda _hash, _why: None,
        segment_bytes: int = SEGMENT_BYTES,
        codec: Codec | None = None,
    ) -> None:
        self._path = path
        self._disk = disk
        self._runner = runner
        self._on_damaged = on_damaged
        self._codec: Codec = codec or AsItIs()
        self._lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._failed: BaseException | None = None
        self._files = SegmentFiles(path, disk, segment_bytes)
        self._damaged: set[ChunkHash] = set()
        self._broken: set[int] = set()  # segments that can not be reclaimed
        self._open_epoch, self._syncing = _Epoch(), _Epoch()
        self._unsynced_bytes = 0
        self._background_syncs = 0
        self._bytes_since_index_flush = 0
        disk.mkdir(path)
        self._index = ChunkIndex(os.path.join(path, "index"))
        self._count, self._content_bytes = self._index.totals()
        self._dead = self._index.dead_bytes()
        self.torn_bytes = 0  # cut off at open, for the node's log
        self._recover()

    # --- reading -----------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        return self._count

    @property
    def content_bytes(self) -> int:
        return self._content_bytes

    @property
    def stored_bytes(self) -> int:
        return sum(self._files.sizes.values())

    @property
    def unsynced_bytes(self) -> int:
        return self._unsynced_bytes

    def has(self, chunk_hash: ChunkHash) -> bool:
        with self._lock:
            return chunk_hash not in self._damaged and self._place(chunk_hash) is not None

    def missing(self, hashes: Iterable[ChunkHash]) -> list[ChunkHash]:
        return [chunk_hash for chunk_hash in hashes if not self.has(chunk_hash)]

    def get(self, chunk_hash: ChunkHash) -> bytes | None:
        """None when it is not here, or is damaged: that is reported once, and the next put mends it."""
        with self._lock:
            place = self._place(chunk_hash)
            if place is None or chunk_hash in self._damaged:
                return None
            record = self._read(place)
            content = self._codec.decode(record[1]) if record is not None and record[0] == chunk_hash else None
            if content is not None and blake3(content).digest() == chunk_hash:
                return content
            why = f"the record at {place.offset} of {segment_name(place.segment)} does not verify"
            if len(self._damaged) < DAMAGED_MAX:
                self._damaged.add(chunk_hash)
        self._on_damaged(chunk_hash, why)
        return None

    def read_chunk(self, chunk_hash: bytes) -> bytes | None:
        """`raft.engine.ChunkSource`."""
        return self.get(ChunkHash(chunk_hash))

    def hashes(self, after: bytes = b"") -> Iterator[ChunkHash]:
        """Every chunk here, in order of the hashes, from the one after `after`: for garbage collection."""
        with self._lock:
            fresh = {**self._syncing.places, **self._open_epoch.places}
            gone = (self._syncing.removed | self._open_epoch.removed) - self._open_epoch.places.keys()
            indexed = self._index.hashes(after)
        mine = sorted(chunk_hash for chunk_hash in fresh if chunk_hash > after and chunk_hash not in gone)
        others = (chunk_hash for chunk_hash in indexed if chunk_hash not in fresh and chunk_hash not in gone)
        yield from merge(mine, others)

    # --- writing -----------------------------------------------------------------------------------

    def put(self, chunk_hash: ChunkHash, content: bytes) -> bool:
        """False: it was here. ValueError: too long, or not the hash's bytes. DiskFullError: nothing was kept."""
        if len(content) > CHUNK_BYTES_MAX:
            raise ValueError(f"a chunk of {len(content)} bytes is longer than {CHUNK_BYTES_MAX}")
        if blake3(content).digest() != chunk_hash:
            raise ValueError("content: the bytes are not those of the hash")
        stored = self._codec.encode(content)
        with self._lock:
            self._raise_failure()
            old = self._place(chunk_hash)
            if old is not None and chunk_hash not in self._damaged:
                return False
            self._append(chunk_hash, stored)
            if old is not None:
                self._bury(old)
            self._damaged.discard(chunk_hash)
            self._count += 1
            self._content_bytes += len(stored)
            starts = self._unsynced_bytes >= SYNC_BYTES and not self._background_syncs
            self._background_syncs += starts
        if starts:
            self._runner.submit(self.sync, self._background_done)
        return True

    def delete(self, chunk_hash: ChunkHash) -> bool:
        """False: it was not here. The space comes back with `reclaim`. A crash may bring the chunk back."""
        with self._lock:
            self._raise_failure()
            place = self._place(chunk_hash)
            if place is None:
                return False
            self._open_epoch.places.pop(chunk_hash, None)
            self._open_epoch.removed.add(chunk_hash)
            self._damaged.discard(chunk_hash)
            self._bury(place)
            return True

    # --- durability ----------------------------------------------------------------------------------

    def synced(self) -> bool:
        """Every put is durable."""
        with self._lock:
            return not self._open_epoch.places and not self._syncing.places

    def start_sync(self, done: Done) -> None:
        self._runner.submit(self.sync, done)

    def sync(self) -> None:
        """Blocks until every put made before the call is durable. Any thread. DiskFailedError is final (CL-4)."""
        with self._sync_lock:
            with self._lock:
                self._raise_failure()
                if not self._open_epoch.places and not self._open_epoch.removed:
                    return
                self._syncing, self._open_epoch = self._open_epoch, _Epoch()
                writers = self._files.writers()
                directory, self._files.directory_dirty = self._files.directory_dirty, False
                taken_bytes, self._unsynced_bytes = self._unsynced_bytes, 0
                reached = (self._files.active, self._files.sizes.get(self._files.active, 0))
                position = max(reached, self._index.position())
                totals = (self._count, self._content_bytes)
                dead: dict[int, int | None] = dict(self._dead)
            try:
                for writer in writers.values():
                    writer.fdatasync()
                if directory:
                    self._disk.fsync_dir(self._path)
                self._index.write(self._syncing.places, self._syncing.removed, position, totals, dead)
                self._bytes_since_index_flush += taken_bytes
                if self._bytes_since_index_flush >= INDEX_FLUSH_BYTES:
                    self._index.flush()
                    self._bytes_since_index_flush = 0
            except (OSError, DiskFailedError, DiskFullError) as error:
                self._failed = DiskFailedError(f"syncing the chunk store {self._path} failed: {error}")
                raise self._failed from error
            with self._lock:
                self._syncing = _Epoch()
                self._files.close_writers(list(writers))

    def reclaim(self, bytes_max: int) -> int:
        """Moves the live chunks out of the deadest segment and removes it; answers the bytes freed, 0 when no
        segment is dead by half or its live part exceeds `bytes_max`. Blocks; any thread."""
        self.sync()
        with self._lock:
            worth = [
                (dead, number)
                for number, dead in self._dead.items()
                if number != self._files.active
                and number not in self._broken
                and self._is_worth(number, dead, bytes_max)
            ]
        if not worth:
            return 0
        _, number = max(worth)
        end = SEGMENT_HEADER_BYTES
        file = self._disk.open(self._files.path_of(number))
        try:
            for chunk_hash, content, place in scan(file, number, SEGMENT_HEADER_BYTES):
                end = place.offset + place.record_bytes
                with self._lock:
                    if self._place(chunk_hash) == place:
                        self._append(chunk_hash, content)
        finally:
            file.close()
        self.sync()
        if end != self._files.sizes[number]:  # a damaged record hides those behind it: keep them readable
            self._broken.add(number)
            return 0
        return self._unlink(number)

    def close(self) -> None:
        """Syncs and closes; after a failure it only closes."""
        if self._failed is None:
            self.sync()
            self._index.flush()
        with self._lock:
            self._files.close()
            self._index.close()

    # --- inside ------------------------------------------------------------------------------------

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _background_done(self, error: BaseException | None) -> None:
        """An error is kept in `_failed`: the next put raises it."""
        self._background_syncs = 0
        del error

    def _place(self, chunk_hash: ChunkHash) -> Place | None:
        for epoch in (self._open_epoch, self._syncing):  # newest first
            place = epoch.places.get(chunk_hash)
            if place is not None:
                return place
            if chunk_hash in epoch.removed:
                return None
        return self._index.place(chunk_hash)

    def _read(self, place: Place) -> tuple[ChunkHash, bytes] | None:
        try:
            return read_record(self._files.reader(place.segment), place.offset, place.length)
        except FileNotFoundError:
            return None

    def _bury(self, place: Place) -> None:
        """The record at `place` is no chunk of ours any more."""
        self._count -= 1
        self._content_bytes -= place.length
        self._dead[place.segment] = self._dead.get(place.segment, 0) + place.record_bytes

    def _append(self, chunk_hash: ChunkHash, content: bytes) -> Place:
        record = encode_record(chunk_hash, content)
        try:
            segment, offset = self._files.append(record)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFullError(f"no room for a chunk in {self._path}") from error
            self._failed = DiskFailedError(f"writing to the chunk store {self._path} failed: {error}")
            raise self._failed from error
        place = Place(segment, offset, len(content))
        self._unsynced_bytes += len(record)
        self._open_epoch.removed.discard(chunk_hash)
        self._open_epoch.places[chunk_hash] = place
        return place

    def _is_worth(self, number: int, dead_bytes: int, bytes_max: int) -> bool:
        size_bytes = self._files.sizes.get(number, 0)
        return 0 < size_bytes <= dead_bytes / RECLAIM_DEAD_SHARE and size_bytes - dead_bytes <= bytes_max

    def _unlink(self, number: int) -> int:
        """The flushed index must not name the segment any more, or a crash would leave places of nothing."""
        self._index.flush()
        with self._lock:
            freed_bytes = self._files.unlink(number)
            self._dead.pop(number, None)
            totals = (self._count, self._content_bytes)
        self._disk.fsync_dir(self._path)
        with self._sync_lock:
            self._index.write({}, (), self._index.position(), totals, {number: None})
        return freed_bytes

    def _recover(self) -> None:
        """Indexes what was written after the index was last flushed, and cuts off what is torn."""
        segment, offset = self._index.position()
        for number in self._files.numbers():
            whole = self._files.header_is_whole(number)
            size_bytes = self._files.reader(number).size()
            if number < segment or (number == segment and (not whole or offset > size_bytes)):
                self._files.sizes[number] = size_bytes  # damage in here is found and reported by reads
            elif not whole:
                self.torn_bytes += size_bytes
                self._files.unlink(number)
            else:
                self._recover_segment(number, max(offset if number == segment else 0, SEGMENT_HEADER_BYTES))
        self.sync()

    def _recover_segment(self, number: int, start: int) -> None:
        writer, end = self._files.write_on(number, start), start
        for chunk_hash, content, place in scan(writer, number, start):
            end = place.offset + place.record_bytes
            if self._place(chunk_hash) is None:
                self._open_epoch.places[chunk_hash] = place
                self._count += 1
                self._content_bytes += len(content)
            else:
                self._dead[number] = self._dead.get(number, 0) + place.record_bytes
            self._files.sizes[number] = end
            if len(self._open_epoch.places) >= RECOVER_CHUNKS:
                self.sync()
        torn_bytes = writer.size() - end
        if torn_bytes > 0:
            self.torn_bytes += torn_bytes
            writer.truncate(end)
