"""Chunk bytes on this host: bounded, by content, in an LMDB environment with a little memory in front.

Owns: which chunks are here, and which go when there are too many: the first that came, unless it was read since.
Never: fetches; trusts the disk: bytes from there whose BLAKE3 is not their name are as good as absent, and are removed.
Invariants: what was put is there at once for every thread; it reaches the disk with the next flush, and what a crash
loses is fetched again. After a flush at most `bytes_max` are on disk, and less where that would fill the file system.
Threads: any. `flush` runs in one thread at a time.

    chunks: hash -> bytes        order: number -> hash, length        numbers: hash -> number
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from threading import Lock
from typing import Final

import lmdb
from blake3 import blake3

from hypercluster.errors import DamagedError, MalformedError
from hypercluster.limits import MIB

BYTES_MAX: Final = 4 * 1024 * MIB
BYTES_MAX_LEAST: Final = 64 * MIB
DISK_RESERVE_BYTES: Final = 1024 * MIB  # left to others on this file system, the tree's own records among them
MEMORY_BYTES: Final = 32 * MIB
RECALLED_MAX: Final = 65_536  # hashes read since they came, so that they get a second turn

_NUMBER: Final = Struct(">Q")
_PLACE: Final = Struct(">32sI")


class ChunkCache:
    """See the module."""

    def __init__(self, path: str, bytes_max: int = BYTES_MAX) -> None:
        """Raises MalformedError for a bound that is too low, DamagedError, OSError."""
        if bytes_max < BYTES_MAX_LEAST:
            raise MalformedError(f"cache_bytes: {bytes_max}, at least {BYTES_MAX_LEAST} are needed")
        self.path = path
        self._bytes_max = bytes_max
        self._lock = Lock()
        self._pending: dict[bytes, bytes] = {}  # put and not yet on disk
        self._pending_bytes = 0
        self._flushing: dict[bytes, bytes] = {}
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._recalled: set[bytes] = set()
        self._told: Callable[[], None] | None = None
        os.makedirs(path, exist_ok=True)
        # Freed pages are used again, so the file does not grow much past its content.
        try:
            room = 2 * bytes_max + 1024 * MIB
            self._environment = lmdb.open(path, map_size=room, max_dbs=3, metasync=False, mode=0o600)
            self._chunks = self._environment.open_db(b"chunks")
            self._order = self._environment.open_db(b"order")
            self._numbers = self._environment.open_db(b"numbers")
        except lmdb.Error as error:
            raise DamagedError(f"{path} does not open as a cache: {error}. Remove it: it fills again") from error
        self._next_number, self.bytes_total = self._measure()

    def _measure(self) -> tuple[int, int]:
        total = number = 0
        with self._environment.begin() as transaction, transaction.cursor(self._order) as cursor:
            for key, place in cursor:
                number = _NUMBER.unpack(key)[0] + 1
                total += _PLACE.unpack(place)[1]
        return number, total

    # --- looking ------------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """What is only in memory, and grows until the next flush."""
        return self._pending_bytes

    @property
    def room_bytes(self) -> int:
        """What can be put before something has to go."""
        return self._limit_bytes() - self.bytes_total - self._pending_bytes

    def _limit_bytes(self) -> int:
        disk = os.statvfs(self.path)
        spare_bytes = disk.f_bavail * disk.f_frsize - DISK_RESERVE_BYTES
        return max(0, min(self._bytes_max, self.bytes_total + spare_bytes))

    def has(self, chunk_hash: bytes) -> bool:
        if chunk_hash in self._pending or chunk_hash in self._flushing:
            return True
        with self._environment.begin() as transaction:
            return transaction.get(chunk_hash, db=self._numbers) is not None

    def get(self, chunk_hash: bytes) -> bytes | None:
        """The bytes, verified; None if they are not here."""
        with self._lock:
            found = self._pending.get(chunk_hash) or self._flushing.get(chunk_hash)
            if found is not None:
                return found
            found = self._memory.get(chunk_hash)
            if found is not None:
                self._memory.move_to_end(chunk_hash)
                return found
        with self._environment.begin() as transaction:
            found = transaction.get(chunk_hash, db=self._chunks)
        if found is None:
            # A flush may have carried it to disk between the two looks, and a removal away again: ask once more.
            return self._pending.get(chunk_hash) or self._flushing.get(chunk_hash)
        if blake3(found).digest() != chunk_hash:
            self._forget(chunk_hash)
            return None
        with self._lock:
            self._remember(chunk_hash, found)
            if len(self._recalled) < RECALLED_MAX:
                self._recalled.add(chunk_hash)
        return found

    def _remember(self, chunk_hash: bytes, content: bytes) -> None:
        if chunk_hash in self._memory:
            return
        self._memory[chunk_hash] = content
        self._memory_bytes += len(content)
        while self._memory_bytes > MEMORY_BYTES:
            _, dropped = self._memory.popitem(last=False)
            self._memory_bytes -= len(dropped)

    # --- changing -----------------------------------------------------------------------------------

    def on_put(self, told: Callable[[], None]) -> None:
        """`told` is called after a put, by the thread that puts: something waits to be flushed."""
        self._told = told

    def put(self, chunks: Mapping[bytes, bytes]) -> None:
        """Chunks whose hashes the caller has checked, or made."""
        with self._lock:
            for chunk_hash, content in chunks.items():
                if chunk_hash not in self._pending:
                    self._pending[chunk_hash] = content
                    self._pending_bytes += len(content)
        if chunks and self._told is not None:
            self._told()

    def lacking(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Those that are not here, each once."""
        return [chunk_hash for chunk_hash in dict.fromkeys(hashes) if not self.has(chunk_hash)]

    def flush(self) -> None:
        """What waits goes to disk, and the oldest from there if it is too much. Raises OSError; then what waited is
        dropped, as it can be fetched again and memory is bounded."""
        with self._lock:
            if self._flushing or not self._pending:
                return
            self._flushing, self._pending = self._pending, {}
            self._pending_bytes = 0
        limit_bytes = self._limit_bytes()
        try:
            with self._environment.begin(write=True) as transaction:
                for chunk_hash, content in self._flushing.items():
                    self._add(transaction, chunk_hash, content)
                self._shrink(transaction, limit_bytes)
        except lmdb.Error as error:
            with self._lock:
                self._flushing = {}
            self._next_number, self.bytes_total = self._measure()
            raise OSError(f"{self.path}: {error}") from error
        with self._lock:
            for chunk_hash, content in self._flushing.items():
                self._remember(chunk_hash, content)
            self._flushing = {}

    def _add(self, transaction: lmdb.Transaction, chunk_hash: bytes, content: bytes) -> None:
        if transaction.get(chunk_hash, db=self._numbers) is not None:
            return
        number = _NUMBER.pack(self._next_number)
        self._next_number += 1
        transaction.put(chunk_hash, content, db=self._chunks)
        transaction.put(chunk_hash, number, db=self._numbers)
        transaction.put(number, _PLACE.pack(chunk_hash, len(content)), db=self._order, append=True)
        self.bytes_total += len(content)

    def _shrink(self, transaction: lmdb.Transaction, limit_bytes: int) -> None:
        """From the oldest on; one that was read since it came goes behind the newest, once."""
        with transaction.cursor(self._order) as cursor:
            while self.bytes_total > limit_bytes and cursor.first():
                place = cursor.value()
                chunk_hash, length = _PLACE.unpack(place)
                cursor.delete()
                if chunk_hash in self._recalled:
                    self._recalled.discard(chunk_hash)
                    number = _NUMBER.pack(self._next_number)
                    self._next_number += 1
                    transaction.put(chunk_hash, number, db=self._numbers)
                    transaction.put(number, place, db=self._order, append=True)
                    continue
                transaction.delete(chunk_hash, db=self._chunks)
                transaction.delete(chunk_hash, db=self._numbers)
                self.bytes_total -= length

    def _forget(self, chunk_hash: bytes) -> None:
        """Damaged on disk."""
        with self._environment.begin(write=True) as transaction:
            number = transaction.pop(chunk_hash, db=self._numbers)
            transaction.delete(chunk_hash, db=self._chunks)
            if number is not None:
                place = transaction.pop(number, db=self._order)
                self.bytes_total -= 0 if place is None else _PLACE.unpack(place)[1]

    def close(self) -> None:
        """Without a flush."""
        self._environment.close()
