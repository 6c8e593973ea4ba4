"""RocksDB as the state store uses it: families, atomic batches, scans, and freezing memtables.

Owns: the open database, its handles and its live scans; `freeze`, the one way a flush starts.
Never: knows what an index is, when to flush, or what chunks are.
Why `freeze` works as it does: a flush call of the binding flushes one family alone (the families would come back
at different indexes), and its checkpoint call holds the interpreter lock during the sync. So the shared write
buffer limit is lowered for one empty write: RocksDB then sets the memtables of all families aside as one group,
under its own write lock, and its own threads flush the group atomically (CL-7).
Invariants: between two freezes nothing reaches the disk; every call here returns without waiting for the disk,
`close` and `wait_frozen` excepted.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from rocksdict import AccessType, Cache, Rdict, RdictIter, ReadOptions, WriteBatch, WriteBufferManager

from hypercluster.errors import DiskFailedError, TurnedAwayError, check
from hypercluster.state_machine.store import Change, Family
from hypercluster.storage.rocks_errors import (
    RESEED,
    check_iterator,
    is_stall,
    opening_error,
    reading_error,
    writing_error,
)
from hypercluster.storage.rocks_options import RocksSettings, database_options, write_options

BUFFER_NEVER_FULL_BYTES: Final = 1 << 50
FROZEN_POLL_S: Final = 0.002
STALL_RETRY_S: Final = 0.001
CHANGE_OVERHEAD_BYTES: Final = 64  # what a memtable adds to each change
FAMILY_NAMES: Final = tuple(family.name.lower() for family in Family)


class _Scan:
    """One iteration over the state as it was when `scan` was called. A scan does not outlive the database: an
    open iterator would keep its directory locked while a checkpoint is installed."""

    __slots__ = ("__weakref__", "_bounds", "_floor", "_iterator", "_lock", "_path", "_step")

    def __init__(
        self, iterator: RdictIter, floor: bytes, path: str, bounds: tuple[ReadOptions, bytes], *, reverse: bool
    ) -> None:
        self._bounds = bounds  # the binding copies no bound: it must live as long as the iterator that reads it
        self._iterator: RdictIter | None = iterator
        self._lock = threading.Lock()  # between `take` in a thread and `end` on the loop
        self._floor = floor  # a reverse scan ends below this key
        self._path = path
        self._step = iterator.prev if reverse else iterator.next

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        iterator = self._iterator
        if iterator is None:
            raise TurnedAwayError("the state was closed or replaced while it was being read; ask again")
        if not iterator.valid():
            check_iterator(iterator, self._path, RESEED)
            raise StopIteration
        key: bytes = iterator.key()
        if key < self._floor:
            raise StopIteration
        pair = key, iterator.value()
        self._step()
        return pair

    def take(self, count_max: int) -> list[tuple[bytes, bytes]]:
        """The next pairs, none at the end. For a thread beside the loop: whoever closes the database waits until this
        has returned, so keep it short."""
        with self._lock:
            return list(islice(self, count_max))

    def end(self) -> None:
        with self._lock:
            if self._iterator is not None:
                self._iterator = None
                del self._step  # it holds the iterator too


def _names_in(path: str) -> Sequence[str]:
    """The families of a database directory, whose numbers are their places: a format only adds at the end."""
    found = set(Rdict.list_cf(path))
    return [name for name in FAMILY_NAMES if name in found]


class RocksDatabase:
    """An open database directory. One owner, one writer; `frozen_pending` may be asked from any thread."""

    def __init__(self, path: str, settings: RocksSettings, *, read_only: bool = False) -> None:
        self.path = path
        self._buffers = WriteBufferManager(BUFFER_NEVER_FULL_BYTES, False)
        cache = Cache(settings.block_cache_bytes)
        access = AccessType.read_only(False) if read_only else AccessType.read_write()
        try:
            # Who may write makes the families a format before this one did not have; who only looks finds them empty.
            names = _names_in(path) if read_only else FAMILY_NAMES
            families = {name: database_options(settings, cache, self._buffers) for name in names}
            self._database = Rdict(path, database_options(settings, cache, self._buffers), families, access)
        except Exception as error:  # the binding knows one exception type only
            raise opening_error(path, error, RESEED) from error
        self._families = [self._database.get_column_family(name) for name in names]
        self._handles = [self._database.get_column_family_handle(name) for name in names]
        self._quick = write_options(no_slowdown=True)
        self._scans: weakref.WeakSet[_Scan] = weakref.WeakSet()
        self._open = True

    def get(self, family: Family, key: bytes) -> bytes | None:
        try:
            return self._families[family].get(key)
        except IndexError:
            if self._open:
                return None  # a directory of a format before this family, only looked at
            raise TurnedAwayError("the state was closed while it was being read; ask again") from None
        except Exception as error:  # the binding knows one exception type only
            raise reading_error(self.path, error, RESEED) from error

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if start >= end or (self._open and family >= len(self._families)):
            return iter(())
        return self.hold(family, start, end, reverse=reverse)

    def hold(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> _Scan:
        """A scan that may be read beside the loop (`take`), and let go (`end`). The family must be there."""
        if not self._open:
            raise TurnedAwayError("the state was closed while it was being read; ask again")
        bounds = ReadOptions()  # set_iterate_lower_bound of the binding sets the upper bound: the scan keeps the floor
        bounds.set_iterate_upper_bound(end)
        iterator = self._families[family].iter(bounds)
        if reverse:
            iterator.seek_for_prev(end)
        else:
            iterator.seek(start)
        scan = _Scan(iterator, start if reverse else b"", self.path, (bounds, end), reverse=reverse)
        self._scans.add(scan)
        return scan

    def local(self, key: bytes) -> bytes | None:
        """Records of this node alone, in the default family: outside what the state machine sees."""
        value: bytes | None = self._database.get(key)
        return value

    def write(self, changes: Iterable[Change], local: tuple[bytes, bytes] | None = None) -> int:
        """Writes all changes, and one record of this node, or nothing. Answers the bytes of the batch.
        A stall is waited for without the interpreter lock, which the binding would hold."""
        wanted = changes if isinstance(changes, list | tuple) else list(changes)
        while True:
            batch = self._batch(wanted, local)  # the binding takes a batch once only
            size_bytes = batch.size_in_bytes()
            try:
                self._database.write(batch, self._quick)
            except Exception as error:  # the binding knows one exception type only
                if not is_stall(error):
                    raise writing_error(self.path, error) from error
                time.sleep(STALL_RETRY_S)
            else:
                return size_bytes + len(wanted) * CHANGE_OVERHEAD_BYTES

    def _batch(self, changes: Iterable[Change], local: tuple[bytes, bytes] | None) -> WriteBatch:
        batch = WriteBatch(raw_mode=True)
        put, delete, handles = batch.put, batch.delete, self._handles
        for family, key, value in changes:
            if value is None:
                delete(key, handles[family])
            else:
                put(key, value, handles[family])
        if local is not None:
            put(*local)
        return batch

    def freeze(self) -> None:
        """Sets the memtables of all families aside, as one group, and lets RocksDB flush them. Returns at once."""
        self._buffers.set_buffer_size(1)
        try:
            self.write(())
        finally:
            self._buffers.set_buffer_size(BUFFER_NEVER_FULL_BYTES)
        check(self.active_entries() == 0, "freezing leaves the memtables empty")

    def active_entries(self) -> int:
        """Changes that no freeze has set aside yet."""
        own = self._number(self._database, "rocksdb.num-entries-active-mem-table")
        return own + sum(self._number(family, "rocksdb.num-entries-active-mem-table") for family in self._families)

    def frozen_pending(self) -> bool:
        """Something frozen is not yet flushed. False means: it is synced and in RocksDB's synced manifest."""
        name = "rocksdb.num-immutable-mem-table"
        return self._number(self._database, name) > 0 or any(self._number(f, name) > 0 for f in self._families)

    def wait_frozen(self) -> None:
        """Blocks until what is frozen is flushed. Raises DiskFailedError when RocksDB gave up."""
        while self.frozen_pending():
            self.raise_background_error()
            time.sleep(FROZEN_POLL_S)

    def raise_background_error(self) -> None:
        errors = self._number(self._database, "rocksdb.background-errors")
        if errors and self.frozen_pending():
            raise DiskFailedError(f"a background flush of the state in {self.path} failed; its LOG says why")

    def write_stopped(self) -> bool:
        """A write would wait now."""
        number = self._number
        return bool(
            number(self._database, "rocksdb.is-write-stopped")
            or number(self._database, "rocksdb.actual-delayed-write-rate")
        )

    def table_files(self) -> dict[str, int]:
        """Name and size of every table file the present version names."""
        files = self._database.live_files()
        return {str(file["name"]).lstrip("/"): int(file["size"]) for file in files}

    def stored_bytes(self, family: Family) -> int:
        """In tables, what is overwritten or deleted and not compacted yet included."""
        return self._number(self._families[family], "rocksdb.live-sst-files-size")

    def memtable_bytes(self) -> int:
        name = "rocksdb.cur-size-all-mem-tables"
        return self._number(self._database, name) + sum(self._number(family, name) for family in self._families)

    def cache_bytes(self) -> int:
        return self._number(self._database, "rocksdb.block-cache-usage")

    def close(self) -> None:
        """Idempotent. Everything must be flushed before: the binding flushes what is left family by family."""
        if not self._open:
            return
        self._open = False
        for scan in list(self._scans):
            scan.end()
        for family in self._families:
            family.close()
        self._families.clear()
        self._handles.clear()
        self._database.close()

    @staticmethod
    def _number(database: Rdict, name: str) -> int:
        return database.property_int_value(name) or 0
