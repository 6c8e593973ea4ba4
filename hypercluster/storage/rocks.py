"""The state of a node in RocksDB: changes and applied index as one batch, flushed as one group.

Owns: `RocksStore`, its `Applied` record and the flush cycle: when a flush starts, and that chunk bytes are
synced before it (CL-7, CL-8).
Never: blocks on the disk inside `commit`; decides what an entry means.
Invariants: what a reopen finds is the state after exactly one index, in every family; that index is at least
`flushed_index`; a chunk's bytes are durable before a flush that holds its record starts.
The cycle: IDLE -> SYNCING (the chunk store syncs beside the loop; when chunks came meanwhile, again, and from
the third time on `stalled()` asks for a pause) -> FLUSHING (RocksDB's threads work) -> IDLE. All on one loop.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from hypercluster.errors import DamagedError, WrongDirectoryError, check
from hypercluster.state_machine.store import Change, Family
from hypercluster.storage.rocks_database import RocksDatabase
from hypercluster.storage.rocks_errors import RESEED
from hypercluster.storage.rocks_options import UNFLUSHED_FLUSHES_MAX, RocksSettings
from hypercluster.values import NO_INDEX, NO_TERM, ZERO_DIGEST, Digest, Index, Term

FORMAT_KEY: Final = b"format"
FORMAT_VERSION: Final = 1  # of the families and the records beside them
APPLIED_KEY: Final = b"applied"
APPLIED_RECORD: Final = struct.Struct(">BQQ32sQ")  # version, index, term, digest, last stamp
APPLIED_VERSION: Final = 1
POLL_COMMITS: Final = 16  # a running flush is looked at every so many commits
_VERSIONS: Final = Family.VERSIONS
SYNC_ROUNDS_OPEN: Final = 2  # chunk syncs before commits are asked to pause


@dataclass(frozen=True, slots=True)
class Applied:
    """How far the state is."""

    index: Index
    term: Term
    digest: Digest
    last_stamp_ns: int


NOTHING_APPLIED: Final = Applied(NO_INDEX, NO_TERM, ZERO_DIGEST, 0)


class HeldRecords(Protocol):
    """Records of one family in order of their keys, as they were when this was made."""

    def take(self, count_max: int) -> list[tuple[bytes, bytes]]:
        """The next ones; none at the end. Any thread, one at a time. Raises TurnedAwayError once the state was closed
        or replaced."""

    def end(self) -> None:
        """Lets go of the state."""


class ChunkBarrier(Protocol):
    """What a flush needs of the chunk store."""

    def synced(self) -> bool:
        """Every chunk put so far is durable."""

    def start_sync(self, done: Callable[[BaseException | None], None]) -> None:
        """Syncs what is put so far, beside the loop; `done` is called on the loop."""

    def sync(self) -> None:
        """The same, blocking."""


class NoChunks:
    """A barrier for a state whose chunks live nowhere: tools and tests of this module."""

    def synced(self) -> bool:
        return True

    def start_sync(self, done: Callable[[BaseException | None], None]) -> None:
        done(None)

    def sync(self) -> None:
        return


class FlushState(Enum):
    IDLE = "idle"
    SYNCING = "syncing"
    FLUSHING = "flushing"


def encode_applied(applied: Applied) -> bytes:
    return APPLIED_RECORD.pack(APPLIED_VERSION, applied.index, applied.term, applied.digest, applied.last_stamp_ns)


def read_applied(database: RocksDatabase) -> Applied:
    """The applied record of an open database; raises DamagedError."""
    found_format, record = database.local(FORMAT_KEY), database.local(APPLIED_KEY)
    if found_format is not None and found_format[0] > FORMAT_VERSION:
        raise WrongDirectoryError(
            f"{database.path} has format {found_format[0]}, this version knows {FORMAT_VERSION}: start the newer one"
        )
    if found_format is None and record is None:
        return NOTHING_APPLIED  # new, or killed before its first flush
    if record is None:
        record = encode_applied(NOTHING_APPLIED)
    if len(record) != APPLIED_RECORD.size or record[0] != APPLIED_VERSION:
        raise DamagedError(f"the applied record in {database.path} is not readable. {RESEED}")
    _, index, term, digest, last_stamp_ns = APPLIED_RECORD.unpack(record)
    return Applied(Index(index), Term(term), Digest(digest), last_stamp_ns)


class RocksStore:
    """`state_machine.store.Store` on disk. The object stays the same when a checkpoint replaces the directory."""

    def __init__(self, path: str, settings: RocksSettings | None = None, chunks: ChunkBarrier | None = None) -> None:
        self.path = path
        self._settings = settings or RocksSettings()
        self._chunks: ChunkBarrier = chunks or NoChunks()
        self._failed: BaseException | None = None
        self._cycle = 0  # tells a late answer of the chunk store from the present one
        self.open()

    def open(self) -> None:
        """Opens the directory, at start and after an install. What it finds is flushed by definition."""
        self._database = RocksDatabase(self.path, self._settings)
        try:
            self._applied = read_applied(self._database)
            if self._database.local(FORMAT_KEY) is None:
                self._database.write((), (FORMAT_KEY, bytes([FORMAT_VERSION])))
        except BaseException:
            self._database.close()
            raise
        self._flushed_index = self._frozen_index = self._applied.index
        self._active_bytes = 0
        self._commits = 0
        self._versions_stored_bytes = self._database.stored_bytes(Family.VERSIONS)
        self._versions_written_bytes = 0
        self._state = FlushState.IDLE
        self._cycle += 1
        self._sync_rounds = 0
        self._held = False
        self._exact: list[Callable[[Applied], None]] = []

    # --- reading -----------------------------------------------------------------------------------

    @property
    def applied(self) -> Applied:
        return self._applied

    @property
    def database(self) -> RocksDatabase:
        return self._database

    @property
    def flushed_index(self) -> Index:
        """A reopen finds at least this index. Log segments above it must be kept (CL-7)."""
        self.poll()
        return self._flushed_index

    def versions_bytes(self) -> tuple[int, int]:
        """Of old versions: in the directory when it was opened, and written since, whatever was removed meanwhile."""
        return self._versions_stored_bytes, self._versions_written_bytes

    @property
    def flush_state(self) -> FlushState:
        return self._state

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._database.get(family, key)

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._database.scan(family, start, end, reverse=reverse)

    def hold(self, family: Family, start: bytes, end: bytes) -> HeldRecords:
        """Records as they are now, whatever is written later: for a thread beside the loop."""
        return self._database.hold(family, start, end)

    # --- writing -----------------------------------------------------------------------------------

    def write(self, changes: Iterable[Change]) -> None:
        """Changes without an index: for tools. The node's apply loop uses `commit`."""
        self._write(changes, self._applied)

    def commit(
        self, index: Index, term: Term, digest: Digest, changes: Iterable[Change], last_stamp_ns: int = 0
    ) -> None:
        """What entry `index` changed, and that it is applied, as one batch. Nothing is on disk yet afterwards."""
        check(index > self._applied.index, f"commit of {index} after {self._applied.index}")
        stamp = max(last_stamp_ns, self._applied.last_stamp_ns)
        applied = Applied(index, term, digest, stamp)
        self._write(changes, applied)
        self._commits += 1
        if self._state is FlushState.FLUSHING and self._commits % POLL_COMMITS == 0:
            self.poll()
        elif self._state is FlushState.IDLE and self._due():
            self.request_flush()

    def stalled(self) -> bool:
        """True: let no further entry be applied now. A commit made all the same is safe, and may wait."""
        self.poll()
        if self._state is FlushState.SYNCING and (self._exact or self._sync_rounds > SYNC_ROUNDS_OPEN):
            return True
        return self._active_bytes >= (UNFLUSHED_FLUSHES_MAX - 1) * self._settings.flush_bytes or (
            self._database.write_stopped()
        )

    # --- flushing ----------------------------------------------------------------------------------

    def request_flush(self) -> None:
        """Starts a flush of what is applied, unless one is being prepared. Comes back at once."""
        if self._state is FlushState.SYNCING or self._held:
            return
        self._state = FlushState.SYNCING
        self._sync_rounds = 0
        self._cycle += 1
        self._advance()

    def freeze_exactly(self, frozen: Callable[[Applied], None]) -> None:
        """Freezes the state for a checkpoint as soon as the chunks allow, `stalled()` until then; then calls
        `frozen` with the point it froze at, and starts no further flush until `release()`."""
        check(not self._held, "one checkpoint at a time")
        self._exact.append(frozen)
        if self._state is not FlushState.SYNCING:
            self.request_flush()

    def release(self) -> None:
        """The checkpoint has its files: flushes may go on."""
        self._held = False
        if self._state is FlushState.IDLE and self._due():
            self.request_flush()

    def poll(self) -> None:
        """Notices a finished flush, or raises what made one fail."""
        if self._failed is not None:
            raise self._failed
        if self._state is not FlushState.FLUSHING:
            return
        if self._database.frozen_pending():
            self._database.raise_background_error()
            return
        self._flushed_index = self._frozen_index
        self._state = FlushState.IDLE
        if self._due():
            self.request_flush()

    def flush(self) -> None:
        """Blocks until everything applied is durable. For start-up, tools, a graceful stop, and a full memory."""
        self._chunks.sync()
        self._freeze()
        self._database.wait_frozen()
        self.poll()

    def close(self) -> None:
        """Flushes and closes. After a failure it only closes: what is durable stays as it is."""
        if self._failed is None:
            self.flush()
        self._database.close()

    def replace(self, install: Callable[[], object]) -> None:
        """Closes the directory, lets `install` put another in its place, and opens that. What was not flushed
        of the old state is given up: a plan on disk already says that the new one is the state."""
        self._database.close()
        install()
        self.open()

    # --- inside ------------------------------------------------------------------------------------

    def _write(self, changes: Iterable[Change], applied: Applied) -> None:
        if self._failed is not None:
            raise self._failed
        if self._active_bytes >= UNFLUSHED_FLUSHES_MAX * self._settings.flush_bytes:
            self.flush()  # the caller went on through a stall; RocksDB must never flush by itself
        wanted = changes if isinstance(changes, list | tuple) else list(changes)
        self._active_bytes += self._database.write(wanted, (APPLIED_KEY, encode_applied(applied)))
        self._versions_written_bytes += sum(
            [len(key) + len(value) for family, key, value in wanted if family is _VERSIONS and value is not None]
        )
        self._applied = applied

    def _due(self) -> bool:
        return (
            self._active_bytes >= self._settings.flush_bytes
            or self._applied.index - self._frozen_index >= self._settings.flush_entries
        )

    def _advance(self) -> None:
        """SYNCING: freeze when every chunk put so far is durable, otherwise sync again."""
        if self._chunks.synced():
            self._freeze()
            return
        self._sync_rounds += 1
        cycle = self._cycle
        self._chunks.start_sync(lambda error: self._chunks_synced(cycle, error))

    def _chunks_synced(self, cycle: int, error: BaseException | None) -> None:
        if error is not None:
            self._failed = error  # raised by the next call: a failed sync is final (CL-4)
        elif cycle == self._cycle and self._state is FlushState.SYNCING:
            self._advance()

    def _freeze(self) -> None:
        check(self._chunks.synced(), "chunk bytes are durable before the state that names them (CL-8)")
        self._database.freeze()
        self._frozen_index = self._applied.index
        self._active_bytes = 0
        self._state = FlushState.FLUSHING
        self._cycle += 1
        waiting, self._exact = self._exact, []
        self._held = self._held or bool(waiting)
        for frozen in waiting:
            frozen(self._applied)
