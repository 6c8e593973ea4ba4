"""The open files of the chunk segments: one being written, the others read through a few open handles.

Owns: handles, segment sizes, rolling to the next segment.
Never: syncs (the chunk store does, with the writers it takes from here); knows which chunks live.
Invariants: a record is written once, at the end of the active segment; after a failed write the next one goes to
the same place. A writer stays open until a sync that began after its last record has finished.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final

from hypercluster.limits import MIB
from hypercluster.storage.chunk_segment import (
    SEGMENT_HEADER_BYTES,
    encode_segment_header,
    segment_header_is_whole,
    segment_name,
    segment_number,
)
from hypercluster.storage.disk import Disk, File

SEGMENT_BYTES: Final = 512 * MIB
OPEN_FILES_MAX: Final = 64


class SegmentFiles:
    """The caller holds the chunk store's lock around every call."""

    def __init__(self, path: str, disk: Disk, segment_bytes: int) -> None:
        self.path = path
        self.active = 0  # 0: none yet
        self.sizes: dict[int, int] = {}  # number -> bytes of header and whole records
        self.directory_dirty = False
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._readers: OrderedDict[int, File] = OrderedDict()
        self._writers: dict[int, File] = {}

    def path_of(self, number: int) -> str:
        return os.path.join(self.path, segment_name(number))

    def numbers(self) -> list[int]:
        """Of the files that are there, sorted."""
        found = map(segment_number, self._disk.listdir(self.path))
        return sorted(number for number in found if number is not None)

    def header_is_whole(self, number: int) -> bool:
        return segment_header_is_whole(self.reader(number), self.path_of(number), number)

    def reader(self, number: int) -> File:
        """The least recently used handle is closed for it."""
        file = self._readers.get(number)
        if file is None:
            file = self._readers[number] = self._disk.open(self.path_of(number))
            if len(self._readers) > OPEN_FILES_MAX:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(number)
        return file

    def append(self, record: bytes) -> tuple[int, int]:
        """Answers (segment, offset). OSError: nothing counts as written."""
        if self.active not in self._writers or self.sizes[self.active] >= self._segment_bytes:
            self._next_segment()
        offset = self.sizes[self.active]
        self._writers[self.active].pwrite(record, offset)
        self.sizes[self.active] = offset + len(record)
        return self.active, offset

    def write_on(self, number: int, size_bytes: int) -> File:
        """Makes `number`, whole up to `size_bytes`, the segment that is written."""
        self._writers[number] = self._disk.open(self.path_of(number))
        self.active = number
        self.sizes[number] = size_bytes
        return self._writers[number]

    def writers(self) -> dict[int, File]:
        """What a sync must cover."""
        return dict(self._writers)

    def close_writers(self, numbers: list[int]) -> None:
        """After the sync that covered them."""
        for number in numbers:
            if number != self.active:
                self._writers.pop(number).close()

    def unlink(self, number: int) -> int:
        """Answers the bytes freed."""
        reader = self._readers.pop(number, None)
        if reader is not None:
            reader.close()
        self._disk.unlink(self.path_of(number))
        self.directory_dirty = True
        return self.sizes.pop(number, 0)

    def close(self) -> None:
        for file in (*self._readers.values(), *self._writers.values()):
            file.close()
        self._readers.clear()
        self._writers.clear()

    def _next_segment(self) -> None:
        """Goes on in the last segment after a start, or makes a new one."""
        last = max(self.sizes, default=0)
        if last not in self._writers and self.sizes.get(last, self._segment_bytes) < self._segment_bytes:
            self.write_on(last, self.sizes[last])
            return
        number = last + 1
        path = self.path_of(number)
        if self._disk.exists(path):  # a full disk stopped an earlier attempt before its header was written
            self._disk.unlink(path)
        writer = self._disk.open(path, create=True)
        try:
            writer.pwrite(encode_segment_header(number), 0)
        except OSError:
            writer.close()
            raise
        self.directory_dirty = True
        self._writers[number] = writer
        self.sizes[number] = SEGMENT_HEADER_BYTES
        self.active = number
