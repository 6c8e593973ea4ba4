"""Entries out of memory or back from disk.

Owns: `TailCache`, the newest entries bounded by bytes, and `EntryReader`, the segments open for reading.
Never: writes.
Invariants: an entry above the durable index is never evicted, because it may be nowhere else; an entry read back is
verified by its own CRC, index and term before anybody sees it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hypercluster.errors import DamagedError
from hypercluster.storage.disk import Disk, File
from hypercluster.storage.wal.format import FormatError, RecordKind, decode_record
from hypercluster.storage.wal.replay import damaged
from hypercluster.storage.wal.state import Location
from hypercluster.storage.wal.types import LogEntry
from hypercluster.storage.wal.writer import segment_name
from hypercluster.values import Index, Term

ENTRY_OVERHEAD_BYTES: Final = 256  # what an entry costs in memory beside its payload
OPEN_SEGMENTS_MAX: Final = 8


class TailCache:
    """Consecutive entries, the newest ones."""

    __slots__ = ("_bytes", "_bytes_max", "_entries", "_oldest")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: dict[int, LogEntry] = {}
        self._oldest = 1

    @property
    def bytes_total(self) -> int:
        return self._bytes

    def get(self, index: Index) -> LogEntry | None:
        return self._entries.get(index)

    def add(self, entry: LogEntry) -> None:
        if not self._entries:
            self._oldest = entry.index
        self._entries[entry.index] = entry
        self._bytes += len(entry.payload) + ENTRY_OVERHEAD_BYTES

    def evict(self, durable_index: Index) -> None:
        """Back under the bound, oldest first, never above `durable_index`."""
        while self._bytes > self._bytes_max and self._oldest <= durable_index and self._entries:
            self._remove(self._oldest)
            self._oldest += 1

    def truncate_from(self, index: Index) -> None:
        last = self._oldest + len(self._entries) - 1
        for gone in range(max(index, self._oldest), last + 1):
            self._remove(gone)

    def drop_to(self, index: Index) -> None:
        while self._entries and self._oldest <= index:
            self._remove(self._oldest)
            self._oldest += 1

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _remove(self, index: int) -> None:
        self._bytes -= len(self._entries.pop(index).payload) + ENTRY_OVERHEAD_BYTES


class EntryReader:
    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._files: OrderedDict[int, File] = OrderedDict()

    def read(self, location: Location, index: Index, term: Term) -> LogEntry:
        try:
            content = self._file(location.segment).pread(location.size_bytes, location.offset)
        except OSError as error:
            raise self._damaged(location, f"entry {index} can not be read: {error}") from error
        try:
            found = decode_record(content, 0, len(content))
        except FormatError as error:
            raise self._damaged(location, f"entry {index}: {error}") from None
        if (found.kind, found.index, found.term) != (RecordKind.ENTRY, index, term):
            what = f"{found.kind.name} {found.index} of term {found.term} where entry {index} of term {term} was"
            raise self._damaged(location, what)
        return LogEntry(index, term, found.payload)

    def _damaged(self, location: Location, what: str) -> DamagedError:
        return damaged(self._directory, location.segment, location.offset, what)

    def _file(self, segment: int) -> File:
        file = self._files.get(segment)
        if file is None:
            file = self._disk.open(f"{self._directory}/{segment_name(segment)}")
            self._files[segment] = file
            if len(self._files) > OPEN_SEGMENTS_MAX:
                self._files.popitem(last=False)[1].close()
        else:
            self._files.move_to_end(segment)
        return file

    def forget_below(self, segment: int) -> None:
        """Those segments are being deleted; an open file would keep their blocks."""
        for number in [number for number in self._files if number < segment]:
            self._files.pop(number).close()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
