"""What belongs to a process that lives: a locked file for each thing it would leave behind if it were killed.

Owns: `Owned`, the file and its lock; `without_owner`, the files whose lock nobody holds.
Never: knows what the things are, or removes any; a thing without such a file is nobody's business.
Invariants: the lock goes with the process, whatever becomes of its number; a file taken away between its making
and its locking is made anew; while one without owner is looked at, it is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SAID_BYTES_MAX: Final = 64 * 1024


class Owned:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def take(self, said: str = "") -> None:
        """From now on it is this process's. `said` is what a later process is to know of it. Twice is harmless."""
        self._path.parent.mkdir(mode=0o755, exist_ok=True)
        while self._lock is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A sweep may have met the file before it was locked, and taken it away: then it is another file, or none.
            if self._path.exists() and self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                os.pwrite(descriptor, said.encode(), 0)
                self._lock = descriptor
            else:
                os.close(descriptor)

    def release(self) -> None:
        """The thing is gone. Twice is harmless."""
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def without_owner(directory: Path) -> Iterator[tuple[str, str]]:
    """Names whose owner is gone, and what it said; each is held while it is cleaned up, and forgotten afterwards."""
    for path in sorted(directory.glob("*")) if directory.is_dir() else []:
        with contextlib.ExitStack() as opened:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (FileNotFoundError, BlockingIOError):
                continue  # gone in the meantime, or its owner lives
            yield path.name, os.pread(descriptor, SAID_BYTES_MAX, 0).decode()
            path.unlink(missing_ok=True)
