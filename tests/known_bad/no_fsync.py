"""Known-bad builds of the log: it believes that what it wrote is durable (CH-10, CL-2).

Each patches this process for good, for the entry point of a test build. `install()`: every sync that the log asks of
its disk, of a file or of a directory, returns at once. `install_entries_unsynced()`: segments are made as they should
be, and the entries in them are not synced. `install_durable_at_once()`: the disk is asked, and the answer not awaited:
what is appended counts as durable, for the leader's own count and for apply. The product has no setting that does it.
"""

from __future__ import annotations

from typing import Any

from hypercluster.storage.disk import PosixDisk, PosixFile
from hypercluster.storage.wal.log import Wal
from hypercluster.storage.wal.types import OpenReport
from hypercluster.storage.wal.writer import SegmentWriter
from hypercluster.values import Index


class _UnsyncedFile(PosixFile):
    __slots__ = ()

    def fdatasync(self) -> None:
        """Nothing."""

    def fsync(self) -> None:
        """Nothing."""


class _UnsyncedDisk(PosixDisk):
    def open(self, path: str, *, create: bool = False) -> PosixFile:
        return _UnsyncedFile(super().open(path, create=create)._fd)

    def fsync_dir(self, path: str) -> None:
        """Nothing."""


_open = Wal.open


def _open_unsynced(_disk: PosixDisk, directory: str, **settings: Any) -> tuple[Wal, OpenReport]:
    return _open(_UnsyncedDisk(), directory, **settings)


def install() -> None:
    Wal.open = _open_unsynced  # type: ignore[method-assign, assignment]


def _pretend_to_sync(writer: SegmentWriter) -> None:
    writer.position.durable_offset = writer.position.offset


def install_entries_unsynced() -> None:
    SegmentWriter._sync = _pretend_to_sync  # type: ignore[method-assign, assignment]


def _last_index(wal: Wal) -> Index:
    return wal.last_index


def install_durable_at_once() -> None:
    Wal.durable_index = property(_last_index)  # type: ignore[method-assign, assignment]
