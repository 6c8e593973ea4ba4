"""A known-bad build: the log believes that what it wrote is durable, and never asks the disk (CH-10, CL-2).

`install()` patches this process for good, for the entry point of a test build: every sync that the log asks of its
disk, of a file or of a directory, returns at once. The product has no setting that does this.
"""

from __future__ import annotations

from typing import Any

from hypercluster.storage.disk import PosixDisk, PosixFile
from hypercluster.storage.wal.log import Wal
from hypercluster.storage.wal.types import OpenReport


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
