"""Open files and directories: one handle for each open file description (WS-10, HandleID).

Owns: what a handle stands for, and which files have pages in the kernel's cache.
Never: holds on the tree; whoever opens a handle holds its inode first and drops it after closing.
Invariants: a handle means one inode whatever happens to its names (WS-21); numbers are not used twice in the life of a
mount. A handle is *cached* when it was opened for reading only: the kernel may keep pages for it, which is what makes
mmap work; every handle that can write goes around the page cache.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field

from hypercluster.client.live.ports import Listed, Node

Rows = list[tuple[bytes, Node | Listed]]  # of a directory: its entries by name


@dataclass(slots=True, eq=False)
class Handle:
    """One open file description. `rows` are the entries of a directory as they were when its reading began; `tokens`
    those of the locks held through this handle, by owner: writes through it carry them (WS-42)."""

    number: int
    inode_id: bytes
    cached: bool
    rows: Rows | None = None
    tokens: dict[int, int] = field(default_factory=dict)


class HandleTable:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, Handle] = {}
        self._cached: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, inode_id: bytes, *, cached: bool) -> Handle:
        with self._lock:
            handle = Handle(next(self._numbers), inode_id, cached)
            self._open[handle.number] = handle
            if cached:
                self._cached[inode_id] += 1
        return handle

    def get(self, number: int) -> Handle:
        """Raises OSError(EBADF)."""
        handle = self._open.get(number)
        if handle is None:
            raise OSError(errno.EBADF, "the kernel names a handle that is not open")
        return handle

    def close(self, number: int) -> Handle:
        """Raises OSError(EBADF)."""
        with self._lock:
            handle = self._open.pop(number, None)
            if handle is None:
                raise OSError(errno.EBADF, "the kernel closes a handle that is not open")
            if handle.cached:
                self._cached[handle.inode_id] -= 1
                if not self._cached[handle.inode_id]:
                    del self._cached[handle.inode_id]
        return handle

    def is_cached(self, inode_id: bytes) -> bool:
        """Whether the kernel may hold pages of it that somebody still reads, or has mapped."""
        return inode_id in self._cached

    def cached(self) -> list[bytes]:
        with self._lock:
            return list(self._cached)
