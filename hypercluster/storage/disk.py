"""The door to the disk: the few calls the durable log and its neighbours make.

Owns: the `Disk` and `File` protocols and `PosixDisk`. Everything that must survive a power cut goes
through them, so that the simulation can put a disk with losses, torn writes and errors in their place.
Never: caches, retries of a failed sync (CL-4), or a decision about formats.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

CLOSED: Final = -1  # in place of a descriptor


class File(Protocol):
    """An open file. Offsets and sizes in bytes. OSError passes through unchanged."""

    def pread(self, size_bytes: int, offset: int) -> bytes: ...

    def pwrite(self, data: bytes, offset: int) -> None:
        """Writes all of `data`."""

    def fdatasync(self) -> None:
        """Data and a grown size are on stable storage when it returns."""

    def fsync(self) -> None: ...

    def size(self) -> int: ...

    def truncate(self, size_bytes: int) -> None: ...

    def close(self) -> None:
        """Closed again it stays closed, and nobody else's file is."""


class Disk(Protocol):
    """A directory tree. Paths are absolute strings."""

    def open(self, path: str, *, create: bool = False) -> File:
        """`create=True` makes a new empty file and fails with FileExistsError when it is there."""

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names, sorted."""

    def mkdir(self, path: str) -> None:
        """With parents; no error when it is there. The new directories' parents are synced."""

    def rename(self, source: str, target: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def fsync_dir(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int: ...


class PosixFile:
    """`File` over a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pread(self, size_bytes: int, offset: int) -> bytes:
        pieces: list[bytes] = []
        while size_bytes > 0:
            piece = os.pread(self._fd, size_bytes, offset)
            if not piece:
                break
            pieces.append(piece)
            size_bytes -= len(piece)
            offset += len(piece)
        return b"".join(pieces)

    def pwrite(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view = view[written:]
            offset += written

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def fsync(self) -> None:
        os.fsync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def close(self) -> None:
        """Once: a second time the number may be another file's, of any thread."""
        fd, self._fd = self._fd, CLOSED
        if fd != CLOSED:
            os.close(fd)


class PosixDisk:
    """`Disk` over the operating system."""

    def open(self, path: str, *, create: bool = False) -> PosixFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return PosixFile(os.open(path, flags, 0o600))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        missing: list[str] = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            os.mkdir(directory, 0o700)
            self.fsync_dir(os.path.dirname(directory))

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize
