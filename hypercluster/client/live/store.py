"""A live tree's records: what is visible at once, in memory, over what is durable, in an LMDB environment.

Owns: `TreeStore`, a `state_machine.store.Store` with a small table of the worker's own records. `write`
is visible when it returns; `begin_flush`, `flush`, `end_flush` move what gathered to disk, as one transaction.
Never: decides when to flush; knows what the records mean, but for which of them are scanned together.
Invariants: a read sees the newest write; a transaction holds whole writes in their order, so what is on disk is the
state after some prefix of them (a kill or power cut may lose the newest, never a part of one); while one is written its
changes stay in memory, so a read sees the same before and after.
Threads: one at a time under the tree's lock, except `flush`, which runs beside them in a thread of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from threading import Lock
from typing import Final

import lmdb

from hypercluster.errors import DamagedError, WrongDirectoryError, check
from hypercluster.limits import MIB
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.records import prefix_end

FORMAT_VERSION: Final = 1
MAP_BYTES_MAX: Final = 64 * 1024 * MIB  # address space, not room: the file is as large as what is in it
KEY_BYTES_MAX: Final = 510  # LMDB's own limit, less the family
GROUP_BYTES: Final = 33  # workspace, kind, directory: keys that are scanned together
SCAN_PAIRS: Final = 512  # a longer scan reads on as it is asked
FAMILIES: Final = [bytes([family]) for family in Family]  # LMDB knows no empty key

Value = bytes | None  # None: deleted
Stored = Callable[["lmdb.Transaction[bytes]", bytes, bytes], Iterator[tuple[bytes, bytes]]]


class _Layer:
    """Changes by family and key, and the keys of each group, so that a directory is listed without a look at all."""

    __slots__ = ("groups", "records", "values")

    def __init__(self) -> None:
        self.values: list[dict[bytes, Value]] = [{} for _ in Family]
        self.groups: list[dict[bytes, set[bytes]]] = [{} for _ in Family]
        self.records: dict[bytes, Value] = {}

    def put(self, family: int, key: bytes, value: Value) -> None:
        values = self.values[family]
        if key not in values:
            self.groups[family].setdefault(key[:GROUP_BYTES], set()).add(key)
        values[key] = value

    def between(self, family: int, start: bytes, end: bytes) -> dict[bytes, Value]:
        values = self.values[family]
        if not values:
            return {}
        group = start[:GROUP_BYTES]
        keys: Iterable[bytes] = values
        if len(group) == GROUP_BYTES and (end.startswith(group) or end == prefix_end(group)):
            keys = self.groups[family].get(group, ())
        return {key: values[key] for key in keys if start <= key < end}

    def __len__(self) -> int:
        return sum(map(len, self.values)) + len(self.records)


class DurableReader:
    """A `Reader` of what was on disk at one moment. One thread uses it, any may close it: its scans then end with an
    OSError."""

    def __init__(self, transaction: lmdb.Transaction[bytes], stored: Stored, pairs: lmdb._Database) -> None:
        self._transaction = transaction
        self._stored = stored
        self._pairs = pairs
        self._turn = Lock()
        self._open = True

    def get(self, family: Family, key: bytes) -> bytes | None:
        with self._turn:
            self._check_open()
            return self._transaction.get(FAMILIES[family] + key, db=self._pairs)

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        check(not reverse, "what is durable is read forwards")
        mark = FAMILIES[family]
        start, end = mark + start, mark + end
        while True:
            with self._turn:
                self._check_open()
                pairs = list(islice(self._stored(self._transaction, start, end), SCAN_PAIRS))
            yield from pairs
            if len(pairs) < SCAN_PAIRS:
                return
            start = mark + pairs[-1][0] + b"\0"

    def _check_open(self) -> None:
        if not self._open:
            raise OSError("the reader was closed")

    def close(self) -> None:
        """Idempotent."""
        with self._turn:
            self._open = False
            self._transaction.abort()


class TreeStore:
    """See the module."""

    def __init__(self, path: str) -> None:
        """Raises DamagedError, WrongDirectoryError, OSError."""
        self.path = path
        os.makedirs(path, exist_ok=True)
        try:
            self._environment = lmdb.open(path, map_size=MAP_BYTES_MAX, max_dbs=2, metasync=False, mode=0o600)
            self._pairs = self._environment.open_db(b"pair")
            self._records = self._environment.open_db(b"record")
        except lmdb.Error as error:
            raise DamagedError(f"{path} does not open as a tree: {error}. Remove it: it is fetched again") from error
        self._active = _Layer()
        self._flushing: _Layer | None = None
        self._reading = self._environment.begin()
        found = self.record("format")
        if found is None:
            self.put_record("format", bytes([FORMAT_VERSION]))
        elif found[0] > FORMAT_VERSION:
            self.close()
            raise WrongDirectoryError(
                f"{path} has format {found[0]}, this version knows {FORMAT_VERSION}: install a newer version"
            )

    # --- Store --------------------------------------------------------------------------------------

    def get(self, family: Family, key: bytes) -> bytes | None:
        values = self._active.values[family]
        if key in values:
            return values[key]
        if self._flushing is not None:
            values = self._flushing.values[family]
            if key in values:
                return values[key]
        return self._reading.get(FAMILIES[family] + key, db=self._pairs)

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        newer = self.newer(family, start, end)
        mark, beyond = FAMILIES[family], FAMILIES[family] + end
        if not newer and not reverse:
            first = list(islice(self._stored(self._reading, mark + start, beyond), SCAN_PAIRS))
            if len(first) < SCAN_PAIRS:
                return iter(first)
            # A transaction of its own sees what is on disk now for as long as the scan goes on.
            return chain(first, self._stored(self._environment.begin(), mark + first[-1][0] + b"\0", beyond))
        found: dict[bytes, Value] = dict(self._stored(self._reading, mark + start, beyond))
        found |= newer
        return iter([(key, value) for key in sorted(found, reverse=reverse) if (value := found[key]) is not None])

    def newer(self, family: Family, start: bytes, end: bytes) -> dict[bytes, Value]:
        """What of a range is perhaps not on disk yet. With a `durable` of the same moment it is all of the range."""
        newer: dict[bytes, Value] = {}
        if self._flushing is not None:
            newer |= self._flushing.between(family, start, end)
        newer |= self._active.between(family, start, end)
        return newer

    def _stored(self, transaction: lmdb.Transaction[bytes], start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs on disk from `start` on and below `end`, families included; the keys come without."""
        with transaction.cursor(self._pairs) as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    if key >= end:
                        return
                    yield key[1:], value

    def durable(self) -> DurableReader:
        """What is on disk now, for a reader in a thread of its own; closed before the store is."""
        return DurableReader(self._environment.begin(), self._stored, self._pairs)

    def write(self, changes: Iterable[Change]) -> None:
        put = self._active.put
        for family, key, value in list(changes):  # all of them, or none
            check(len(key) <= KEY_BYTES_MAX, "keys of a workspace are short")
            put(family, key, value)

    # --- the worker's own records ---------------------------------------------------------------------

    def record(self, name: str) -> bytes | None:
        key = name.encode()
        for layer in (self._active, self._flushing):
            if layer is not None and key in layer.records:
                return layer.records[key]
        return self._reading.get(key, db=self._records)

    def put_record(self, name: str, value: bytes | None) -> None:
        """Moves to disk with the writes around it; None removes."""
        self._active.records[name.encode()] = value

    # --- to disk ------------------------------------------------------------------------------------

    @property
    def unflushed(self) -> int:
        """Changes that are only in memory."""
        return len(self._active) + (0 if self._flushing is None else len(self._flushing))

    @property
    def is_flushing(self) -> bool:
        return self._flushing is not None

    def begin_flush(self) -> bool:
        """Under the lock: what gathered is to be flushed now. False if there is nothing."""
        check(self._flushing is None, "one flush at a time")
        if not len(self._active):
            return False
        self._flushing, self._active = self._active, _Layer()
        return True

    def flush(self) -> None:
        """Beside the others: one transaction, synced. Raises OSError."""
        layer = self._flushing
        check(layer is not None, "a flush was begun")
        assert layer is not None
        try:
            with self._environment.begin(write=True) as transaction:
                for mark, values in zip(FAMILIES, layer.values, strict=True):
                    for key, value in values.items():
                        if value is None:
                            transaction.delete(mark + key, db=self._pairs)
                        else:
                            transaction.put(mark + key, value, db=self._pairs)
                for key, value in layer.records.items():
                    if value is None:
                        transaction.delete(key, db=self._records)
                    else:
                        transaction.put(key, value, db=self._records)
        except lmdb.Error as error:
            raise OSError(f"{self.path}: {error}") from error

    def end_flush(self) -> None:
        """Under the lock: what was flushed is read from disk from now on."""
        self._reading.abort()
        self._reading = self._environment.begin()
        self._flushing = None

    def undo_flush(self) -> None:
        """Under the lock, after a flush that failed: what it was to write waits for the next one."""
        older, newer = self._flushing, self._active
        check(older is not None, "a flush was begun")
        assert older is not None
        for family, values in enumerate(newer.values):
            for key, value in values.items():
                older.put(family, key, value)
        older.records |= newer.records
        self._active, self._flushing = older, None

    def flush_now(self) -> None:
        """All three; for whoever is alone with the store."""
        if self.begin_flush():
            self.flush()
            self.end_flush()

    def sync(self) -> None:
        """What was flushed survives a power cut when this returns: until then the newest transaction may be undone.
        Raises OSError."""
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        for directory in (self.path, os.path.dirname(self.path)):  # the file itself may be new, too
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)

    def close(self) -> None:
        """Without a flush: who wants one asks for it before. Idempotent."""
        self._reading.abort()
        self._environment.close()
