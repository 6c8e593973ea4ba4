"""Attributes of files that stand in no log: what a mount says about itself, as extended attributes.

Owns: their names and values.
Never: waits for the cluster or for a thread; the watchdog lives on these answers (WS-65).
A file that stays on this host (WS-56) has only LOCAL: where it lies there.
Invariants: every name begins with PREFIX, which nobody can set or remove; all but CONTROL and BARRIER are listed. On
every file: log_index (of its last change), inode_id, and root (of the whole tree as this host has it). On the root
directory also why (in words, why nothing can be changed; empty when it can) and status (JSON). BARRIER alone waits, and
is answered by attributes.py: whoever reads it on the root sees from then on whatever was acknowledged anywhere before.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from typing import Final

from hypercluster.client.live.ports import ROOT_ID, LiveTree, Node

PREFIX: Final = b"user.hypercluster."
LOG_INDEX: Final = PREFIX + b"log_index"
ROOT: Final = PREFIX + b"root"
INODE_ID: Final = PREFIX + b"inode_id"
WHY: Final = PREFIX + b"why"
STATUS: Final = PREFIX + b"status"
CONTROL: Final = PREFIX + b"control"
BARRIER: Final = PREFIX + b"barrier"
LOCAL: Final = PREFIX + b"local"

EVERYWHERE: Final = (INODE_ID, LOG_INDEX, ROOT)
ON_ROOT: Final = (STATUS, WHY)


class VirtualAttributes:
    """`alive` says whether the event loop turns; while it does not, CONTROL is refused."""

    def __init__(self, live: LiveTree, alive: Callable[[], bool], described: Callable[[], dict[str, object]]) -> None:
        self._live = live
        self._alive = alive
        self._described = described

    def names(self, inode_id: bytes) -> tuple[bytes, ...]:
        return EVERYWHERE + ON_ROOT if inode_id == ROOT_ID else EVERYWHERE

    def control(self) -> bytes:
        """Raises OSError(EIO)."""
        if not self._alive():
            raise OSError(errno.EIO, "the event loop of the mount does not turn")
        return str(os.getpid()).encode()

    def value(self, node: Node, name: bytes) -> bytes:
        """Raises OSError(ENODATA)."""
        if name == LOG_INDEX:
            return str(max(node.content_index, node.metadata_index)).encode()
        if name == ROOT:
            return self._live.view.root.hex().encode()
        if name == INODE_ID:
            return node.inode_id.hex().encode()
        if node.inode_id == ROOT_ID:
            if name == WHY:
                return self._live.view.read_only_reason.encode()
            if name == STATUS:
                return json.dumps(dataclasses.asdict(self._live.status()) | self._described()).encode()
        raise OSError(errno.ENODATA, "there is no such attribute")
