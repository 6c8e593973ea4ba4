"""Which inodes the kernel knows, by the node ids it knows them under.

Owns: node id to inode id, and how often the kernel has looked each up.
Never: attributes; those are read from the view each time.
Invariants: a node id is the InodeNo, so it means one inode for ever; an entry stays until the kernel has forgotten
every lookup. The kernel bounds how many it keeps.
"""

from __future__ import annotations

import errno
import threading

from hypercluster.client.live.ports import ROOT_ID, Node
from hypercluster.mount.libfuse import ROOT_NODE
from hypercluster.mount.request import node_id_of


class NodeTable:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, tuple[bytes, int]] = {}
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def inode_of(self, node: int) -> bytes:
        """Raises OSError(ESTALE): the kernel then walks the path again."""
        if node == ROOT_NODE:
            return ROOT_ID
        found = self._known.get(node)
        if found is None:
            raise OSError(errno.ESTALE, "the kernel asks for a node it was not given")
        return found[0]

    def looked_up(self, node: Node) -> None:
        """Before an entry is answered with it."""
        number = node_id_of(node)
        if number == ROOT_NODE:
            return
        with self._lock:
            _, lookups = self._known.get(number, (b"", 0))
            self._known[number] = (node.inode_id, lookups + 1)
            self._numbers[node.inode_id] = number

    def forget(self, node: int, lookups: int) -> None:
        with self._lock:
            found = self._known.get(node)
            if found is None:
                return
            inode_id, before = found
            if before > lookups:
                self._known[node] = (inode_id, before - lookups)
            else:
                del self._known[node]
                del self._numbers[inode_id]

    def number_of(self, inode_id: bytes) -> int | None:
        """None if the kernel does not know it."""
        return ROOT_NODE if inode_id == ROOT_ID else self._numbers.get(inode_id)

    def numbers(self) -> list[int]:
        """All the kernel knows."""
        with self._lock:
            return [ROOT_NODE, *self._known]
