"""Local files that the kernel knows, by the node ids it knows them under, and those that are open (WS-56).

Owns: `LocalTable`: node id to place, the host's inode behind it, and its open files.
Never: system calls on what it names; those stand in files.py and border.py.
Invariants: node ids and st_ino have the highest bit set. An InodeNo never has: it is a time in nanoseconds, below it
until the year 2262. A node id is never used twice; a file keeps its node through every name and rename of this mount; a
number that the host gives to another file after a removal is another node. A node stays as long as the kernel or a
node below it knows it.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from dataclasses import dataclass, field
from typing import Final

from hypercluster.client.live.ports import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Node
from hypercluster.mount.handles import Rows

LOCAL_BIT: Final = 1 << 63
KINDS: Final = {stat.S_IFREG: KIND_FILE, stat.S_IFDIR: KIND_DIRECTORY, stat.S_IFLNK: KIND_SYMLINK}


def is_local(number: int) -> bool:
    """Of a node id or of a handle."""
    return bool(number & LOCAL_BIT)


def shown(status: os.stat_result, owner: tuple[int, int], target: bytes = b"") -> Node:
    """What a file of the host is in the words of the tree. Raises OSError(EIO) for what no mount can have made."""
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise OSError(errno.EIO, "something lies there that is no file, directory or symlink")
    return Node(
        inode_id=b"",
        ino=status.st_ino | LOCAL_BIT,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=owner[0],
        gid=owner[1],
        size=status.st_size,
        nlink=status.st_nlink,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        symlink_target=target,
        content_index=0,
        metadata_index=0,
    )


@dataclass(slots=True, eq=False)
class Place:
    """Where something local stands: in the local directory `above`, or uppermost, in the replicated one `home`."""

    home: bytes
    above: LocalNode | None
    name: bytes

    def names(self) -> tuple[bytes, list[bytes]]:
        """The replicated directory, and the names from there on."""
        parts, place = [self.name], self
        while place.above is not None:
            place = place.above.place
            parts.append(place.name)
        return place.home, parts[::-1]


@dataclass(slots=True, eq=False)
class LocalNode:
    """`known`: lookups by the kernel, and nodes that stand below. `gone`: the name in `place` is."""

    number: int
    identity: tuple[int, int]
    place: Place
    known: int = 0
    gone: bool = False
    open: dict[int, LocalHandle] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class LocalHandle:
    """An open file or directory of the host. `rows` are a directory's entries as its reading began."""

    number: int
    node: LocalNode
    descriptor: int
    writable: bool
    rows: Rows | None = None


class LocalTable:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count(LOCAL_BIT | 1)
        self._nodes: dict[int, LocalNode] = {}
        self._by_identity: dict[tuple[int, int], LocalNode] = {}
        self._handles: dict[int, LocalHandle] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    # --- nodes --------------------------------------------------------------------------------------

    def get(self, number: int) -> LocalNode:
        """Raises OSError(ESTALE)."""
        found = self._nodes.get(number)
        if found is None:
            raise OSError(errno.ESTALE, "the kernel asks for a node it was not given")
        return found

    def looked_up(self, status: os.stat_result, place: Place) -> LocalNode:
        """Before an entry is answered with it. A file that was met under another name stands here from now on."""
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            node = self._by_identity.get(identity)
            if node is None:
                node = LocalNode(next(self._numbers), identity, place)
                self._nodes[node.number] = self._by_identity[identity] = node
                self._enter(place)
            else:
                self._put(node, place)
            node.known += 1
            return node

    def forget(self, number: int, lookups: int) -> None:
        with self._lock:
            node = self._nodes.get(number)
            if node is not None:
                self._let_go(node, lookups)

    def moved(self, identity: tuple[int, int], place: Place) -> None:
        """By a rename."""
        with self._lock:
            node = self._by_identity.get(identity)
            if node is not None:
                self._put(node, place)

    def removed(self, status: os.stat_result, place: Place) -> None:
        """A name of it is gone; after the last one the host may use its number for another file."""
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            node = self._by_identity.get(identity)
            if node is None:
                return
            if node.place.names() == place.names():
                node.gone = True
            if status.st_nlink <= 1 or stat.S_ISDIR(status.st_mode):
                del self._by_identity[identity]

    def _put(self, node: LocalNode, place: Place) -> None:
        before, node.place, node.gone = node.place, place, False
        self._enter(place)
        self._leave(before)

    def _enter(self, place: Place) -> None:
        if place.above is not None:
            place.above.known += 1

    def _leave(self, place: Place) -> None:
        if place.above is not None:
            self._let_go(place.above, 1)

    def _let_go(self, node: LocalNode, lookups: int) -> None:
        node.known -= lookups
        while node.known <= 0:
            self._nodes.pop(node.number, None)
            if self._by_identity.get(node.identity) is node:
                del self._by_identity[node.identity]
            above = node.place.above
            if above is None:
                return
            node = above
            node.known -= 1

    # --- handles ------------------------------------------------------------------------------------

    def opened(self, node: LocalNode, descriptor: int, *, writable: bool) -> LocalHandle:
        with self._lock:
            handle = LocalHandle(next(self._numbers), node, descriptor, writable)
            self._handles[handle.number] = node.open[handle.number] = handle
            return handle

    def handle(self, number: int) -> LocalHandle:
        """Raises OSError(EBADF)."""
        found = self._handles.get(number)
        if found is None:
            raise OSError(errno.EBADF, "the kernel names a handle that is not open")
        return found

    def closed(self, number: int) -> LocalHandle:
        """The descriptor is the caller's to close. Raises OSError(EBADF)."""
        with self._lock:
            handle = self._handles.pop(number, None)
            if handle is None:
                raise OSError(errno.EBADF, "the kernel closes a handle that is not open")
            del handle.node.open[number]
            return handle

    def borrow(self, node: LocalNode, *, writable: bool = False) -> int | None:
        """A descriptor of one of its open files, through which one without a name, or without the permission, can
        still be reached; the caller's to close."""
        with self._lock:
            open_files = (handle for handle in node.open.values() if handle.writable or not writable)
            handle = next(open_files, None)
            return None if handle is None else os.dup(handle.descriptor)
