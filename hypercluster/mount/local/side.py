"""The local side of a mount, put together: border, files, locks, and what is said of them (WS-56).

Owns: `LocalSide`, what the session calls for local nodes and for every name; the words of the status.
Never: decides; border.py does.
Invariant: a node or handle with the highest bit set is local, every other one is the tree's.
"""

from __future__ import annotations

import os
from typing import Final

from hypercluster.mount.content import ContentOperations
from hypercluster.mount.desk import Desk
from hypercluster.mount.local.border import Border
from hypercluster.mount.local.files import LocalFiles
from hypercluster.mount.local.ground import Ground
from hypercluster.mount.local.locks import LocalLocks
from hypercluster.mount.local.patterns import PatternsInForce
from hypercluster.mount.names import NameOperations

LEFT_SHOWN_MAX: Final = 100


class LocalSide:
    """Made with the front."""

    def __init__(
        self,
        desk: Desk,
        ground: Ground,
        patterns: PatternsInForce,
        names: NameOperations,
        content: ContentOperations,
    ) -> None:
        self._desk = desk
        self._ground = ground
        self._patterns = patterns
        self.locks = LocalLocks(desk)
        self.files = LocalFiles(desk, ground, self.locks.closed, self.locks.let_go)
        self.locks.table = self.files.table
        self.border = Border(desk, self.files, patterns, names, content)
        content.beside = self.files.beside

    def left(self) -> list[bytes]:
        """Roots whose directory another host has removed."""
        return [inode_id for inode_id in self._ground.roots() if self._desk.view.path_of(inode_id) is None]

    def described(self) -> dict[str, object]:
        """For the status: patterns, where the files lie, and what nobody can reach through the mount any more."""
        left = [os.fsdecode(self._ground.path(inode_id, [])) for inode_id in self.left()[:LEFT_SHOWN_MAX]]
        return {
            "local_patterns": self._patterns.text.decode("utf-8", "backslashreplace").splitlines(),
            "local_directory": self._ground.directory,
            "local_directories": len(self._ground.roots()),
            "local_left": left,
        }

    def end(self) -> None:
        self.files.turns.end()
