"""Zero-filled files made ahead of need: the next segment, and the reserve for a full disk (CL-4).

Owns: the files `pool-N.zero` of a log's directory and the one under construction, `pool-N.zero.tmp`.
Never: decides whether an entry may be appended (log.py), or writes anything but zeros.
Invariants:
- A file has its final name only when all its zeros are synced; the name is synced before the file is counted.
- Zeros are written, not merely allocated: an fdatasync in a written file costs about half of one in a fallocated
  file (ext4: 90 against 170 microseconds for 20 KiB), because no extent has to be converted.
- Construction goes on in small steps beside the syncs of the log, so that no sync waits for a whole segment.
- Called on one thread at a time; `ready` may be read from any.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

from hypercluster.limits import KIB, MIB
from hypercluster.storage.disk import Disk, File

POOL_PREFIX: Final = "pool-"
POOL_SUFFIX: Final = ".zero"
UNFINISHED_SUFFIX: Final = ".tmp"
SYNC_EVERY_BYTES: Final = 4 * MIB
WRITE_BYTES: Final = 256 * KIB
HEAD_BYTES: Final = 4 * KIB  # a crash while a pool file became a segment leaves traces nowhere else

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


class SegmentPool:
    """`reserve` of the files are for a full disk only; one more is the next segment."""

    def __init__(self, disk: Disk, directory: str, segment_bytes: int, reserve: int) -> None:
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._names: list[str] = []
        self._next_number = 1
        self._building: File | None = None
        self._built_bytes = 0
        self._unsynced_bytes = 0
        self.reserve = reserve
        self.full = False  # the last construction met a full disk

    @property
    def ready(self) -> int:
        return len(self._names)

    @property
    def missing_bytes(self) -> int:
        """What it takes to have the reserve and the next segment."""
        wanted = (self.reserve + 1 - len(self._names)) * self._segment_bytes
        return max(0, wanted - self._built_bytes)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def adopt(self, names: list[str]) -> None:
        """On open: takes over the finished files among `names`, and removes what is unfinished or in excess."""
        removed = False
        for name in names:
            if not name.startswith(POOL_PREFIX):
                continue
            stem = name.removeprefix(POOL_PREFIX).removesuffix(UNFINISHED_SUFFIX).removesuffix(POOL_SUFFIX)
            if stem.isdigit():
                self._next_number = max(self._next_number, int(stem) + 1)
            if name.endswith(POOL_SUFFIX) and len(self._names) <= self.reserve and self._is_clean(name):
                self._names.append(name)
            else:
                self._disk.unlink(self._path(name))
                removed = True
        if removed:
            self._disk.fsync_dir(self._directory)

    def _is_clean(self, name: str) -> bool:
        file = self._disk.open(self._path(name))
        try:
            return file.size() == self._segment_bytes and not file.pread(HEAD_BYTES, 0).strip(b"\0")
        finally:
            file.close()

    def take(self) -> str:
        """The path of a synced, zero-filled file, no longer counted. Makes one when only the reserve is left, and
        gives up a reserve file when the disk is full. Raises OSError(ENOSPC) when there is no reserve either."""
        if len(self._names) <= self.reserve:
            self.fill(self.reserve + 1)
        if not self._names:
            raise OSError(errno.ENOSPC, f"no room for a segment in {self._directory}, and the reserve is used up")
        return self._path(self._names.pop(0))

    def fill(self, count: int) -> bool:
        """Builds until `count` files are ready. False when the disk is full."""
        while len(self._names) < count:
            if not self.step(self._segment_bytes):
                return False
        return True

    def step(self, bytes_max: int) -> bool:
        """Writes at most about `bytes_max` zeros towards the next file. False when the disk is full."""
        if len(self._names) > self.reserve:
            return True
        if self._building is None and self._disk.free_bytes(self._directory) < self._segment_bytes:
            self.full = True
            return False
        try:
            self._build(bytes_max)
        except OSError as error:
            if not is_full(error):
                raise
            self._give_back()
            self.full = True
            return False
        self.full = self.full and len(self._names) <= self.reserve
        return True

    def _build(self, bytes_max: int) -> None:
        name = f"{POOL_PREFIX}{self._next_number:08d}{POOL_SUFFIX}"
        if self._building is None:
            self._building = self._disk.open(self._path(name + UNFINISHED_SUFFIX), create=True)
            self._built_bytes = self._unsynced_bytes = 0
        file = self._building
        stop = min(self._segment_bytes, self._built_bytes + bytes_max)
        while self._built_bytes < stop:
            piece = min(WRITE_BYTES, stop - self._built_bytes)
            file.pwrite(bytes(piece), self._built_bytes)
            self._built_bytes += piece
            self._unsynced_bytes += piece
            if self._unsynced_bytes >= SYNC_EVERY_BYTES:
                # A little at a time: one fsync of a whole segment would hold up the log's own next sync.
                file.fdatasync()
                self._unsynced_bytes = 0
        if self._built_bytes == self._segment_bytes:
            file.fsync()
            file.close()
            self._building = None
            self._built_bytes = 0
            self._disk.rename(self._path(name + UNFINISHED_SUFFIX), self._path(name))
            self._disk.fsync_dir(self._directory)
            self._next_number += 1
            self._names.append(name)

    def _give_back(self) -> None:
        """A half-built file on a full disk only takes room from others."""
        if self._building is not None:
            self._building.close()
            self._building = None
        self._built_bytes = 0
        unfinished = self._path(f"{POOL_PREFIX}{self._next_number:08d}{POOL_SUFFIX}{UNFINISHED_SUFFIX}")
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(unfinished)

    def close(self) -> None:
        if self._building is not None:
            self._building.close()
            self._building = None
            self._built_bytes = 0
