"""Which inodes the kernel knows, by the node ids it knows them under.

Owns: node id to inode id, how often the kernel has looked each up, and whether it is sure to have taken it in.
Never: attributes; those are read from the view each time.
Invariants: a node id is the InodeNo, so it means one inode for ever; an entry stays until the kernel has forgotten
every lookup. The kernel bounds how many it keeps. A node is *confirmed* once the kernel has named it in a request:
until then it may still be taking in the answer that told of it, and a notice about it would find nothing.
"""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass

from hypercluster.client.live.ports import ROOT_ID, Node
from hypercluster.mount.libfuse import ROOT_NODE
from hypercluster.mount.request import node_id_of


@dataclass(slots=True)
class Known:
    inode_id: bytes
    lookups: int = 0
    confirmed: bool = False


class NodeTable:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, Known] = {}
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def inode_of(self, node: int) -> bytes:
        """For a node that the kernel names. Raises OSError(ESTALE): the kernel then walks the path again."""
        if node == ROOT_NODE:
            return ROOT_ID
        found = self._known.get(node)
        if found is None:
            raise OSError(errno.ESTALE, "the kernel asks for a node it was not given")
        found.confirmed = True
        return found.inode_id

    def looked_up(self, node: Node) -> bool:
        """Before an entry is answered with it. True: it was confirmed before."""
        number = node_id_of(node)
        if number == ROOT_NODE:
            return True
        with self._lock:
            known = self._known.setdefault(number, Known(node.inode_id))
            known.lookups += 1
            self._numbers[node.inode_id] = number
            return known.confirmed

    def forget(self, node: int, lookups: int) -> None:
        with self._lock:
            found = self._known.get(node)
            if found is None:
                return
            found.lookups -= lookups
            if found.lookups <= 0:
                del self._known[node]
                del self._numbers[found.inode_id]

    def number_of(self, inode_id: bytes) -> int | None:
        """None if the kernel does not know it."""
        return ROOT_NODE if inode_id == ROOT_ID else self._numbers.get(inode_id)

    def numbers(self) -> list[int]:
        """All the kernel knows."""
        with self._lock:
            return [ROOT_NODE, *self._known]
