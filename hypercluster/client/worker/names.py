"""Where inodes stand in the mirror: the names of each, and paths from them.

Owns: `Names`: for every directory its parent and name (in memory), for every inode its places (in the worker's store,
Family.META, so that they move in the same transaction as the tree).
Never: touches the mirror.
Invariants: after `apply` it describes the tree the store holds; a path is made from the root down, so a moved
directory moves everything below it at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from hypercluster.client.worker.tree_view import ID_BYTES, EntryRef, TreeView
from hypercluster.errors import check
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.state_machine.workspace.records import ROOT_ID, prefix_end

_PREFIX = b"worker.place."
DEPTH_MAX = 4_096


def place_key(inode_id: bytes, directory: bytes, name: bytes) -> bytes:
    return _PREFIX + inode_id + directory + name


class Names:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._directories: dict[bytes, tuple[bytes, bytes]] = {}

    def load(self, view: TreeView) -> None:
        """From the tree, once, when the worker starts."""
        self._directories = {
            entry.inode_id: (directory, name) for directory, name, entry in view.all_entries() if entry.is_directory
        }

    @property
    def directories(self) -> dict[bytes, tuple[bytes, bytes]]:
        """Inode id of every directory but the root -> (parent, name). Not to be changed."""
        return self._directories

    def places(self, inode_id: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(directory, name) of every name a file or symlink has in the store."""
        prefix = _PREFIX + inode_id
        for key, _ in self._reader.scan(Family.META, prefix, prefix_end(prefix)):
            at = len(prefix)
            yield key[at : at + ID_BYTES], key[at + ID_BYTES :]

    def path(self, directory: bytes, name: bytes = b"") -> bytes:
        """Relative to the mirror; b'' is its top. Raises KeyError if the directory has no name."""
        return path_in(self._directories, directory, name)

    def apply(
        self, removed: Iterable[tuple[bytes, bytes, EntryRef]], added: Iterable[tuple[bytes, bytes, EntryRef]]
    ) -> list[Change]:
        """Moves to the new tree; returns what the store needs. Removals come first: a rename is both."""
        changes: dict[bytes, bytes | None] = {}
        for directory, name, entry in removed:
            if entry.is_directory:
                if self._directories.get(entry.inode_id) == (directory, name):
                    del self._directories[entry.inode_id]
            else:
                changes[place_key(entry.inode_id, directory, name)] = None
        for directory, name, entry in added:
            if entry.is_directory:
                self._directories[entry.inode_id] = (directory, name)
            else:
                changes[place_key(entry.inode_id, directory, name)] = b""
        return [Change(Family.META, key, value) for key, value in changes.items()]


def path_in(directories: Mapping[bytes, tuple[bytes, bytes]], directory: bytes, name: bytes = b"") -> bytes:
    parts = [name] if name else []
    while directory != ROOT_ID:
        check(len(parts) < DEPTH_MAX, "directories of the mirror form a circle")
        directory, part = directories[directory]
        parts.append(part)
    return b"/".join(reversed(parts))
