"""The directory of this host in which local paths of a mounted workspace lie (WS-56).

Owns: one *root* for each replicated directory that has something local in it, named by the directory's inode id in hex:
so a directory that is renamed, here or on another host, takes what is local in it along. How a node is reached: from
its root, name by name.
Never: follows a symlink on the way, for a process of the workspace's user may put one there between two calls; decides
what is local; touches what is replicated.
Invariants: a root that is empty is removed; what is in a root whose directory is gone stays, and is named to people.
Survives restarts: it is a directory of the host's file system, and nothing of it is only in memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ROOT: Final = re.compile(r"[0-9a-f]{32}")
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ROOT_MODE: Final = 0o700


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Ground:
    """Thread-safe. `owner`: uid and gid of whatever is made in it."""

    def __init__(self, directory: str, owner: tuple[int, int]) -> None:
        """Raises OSError."""
        self.directory = directory
        self._owner = owner
        self._owned = os.geteuid() != 0 or owner == (0, 0)
        os.makedirs(directory, ROOT_MODE, exist_ok=True)
        self._top = os.open(directory, _DIRECTORY)
        self._lock = threading.Lock()
        self._roots = {bytes.fromhex(name) for name in os.listdir(directory) if _ROOT.fullmatch(name)}

    def has(self, inode_id: bytes) -> bool:
        """Whether something local stands in this replicated directory."""
        return inode_id in self._roots

    def roots(self) -> list[bytes]:
        with self._lock:
            return sorted(self._roots)

    @contextmanager
    def root(self, inode_id: bytes, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the root, for calls relative to it. Raises FileNotFoundError."""
        name = inode_id.hex()
        if make:
            with self._lock, contextlib.suppress(FileExistsError):
                os.mkdir(name, ROOT_MODE, dir_fd=self._top)
                self._roots.add(inode_id)
        with _opened(name, self._top) as descriptor:
            yield descriptor

    @contextmanager
    def reach(self, home: bytes, names: list[bytes], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory that lies so many names below the root of `home`. Raises OSError; ELOOP or
        ENOTDIR where a symlink or a file has taken the place of a directory."""
        with self.root(home, make=make) as root:
            descriptor = os.dup(root)
            try:
                for name in names:
                    below = os.open(name, _DIRECTORY, dir_fd=descriptor)
                    os.close(descriptor)
                    descriptor = below
                yield descriptor
            finally:
                os.close(descriptor)

    def prune(self, inode_id: bytes) -> None:
        """The root goes if nothing is in it."""
        with self._lock:
            if inode_id not in self._roots:
                return
            try:
                os.rmdir(inode_id.hex(), dir_fd=self._top)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    return
            self._roots.discard(inode_id)

    def path(self, inode_id: bytes, names: list[bytes]) -> bytes:
        """For people; nothing is opened by it."""
        return b"/".join([os.fsencode(self.directory), inode_id.hex().encode(), *names])

    def take_over(self, name: bytes, directory: int) -> None:
        """What this process has made belongs to the workspace's user."""
        if not self._owned:
            os.chown(name, *self._owner, dir_fd=directory, follow_symlinks=False)


@contextmanager
def _opened(name: str | bytes, directory: int) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def named(directory: int, name: bytes) -> bytes:
    """A path for calls that take no directory: it goes through the descriptor, so nothing above can be exchanged."""
    return b"/proc/self/fd/%d/%s" % (directory, name)
