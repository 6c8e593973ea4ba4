"""Where inodes stand: their names, kept backwards, and the paths that follow from them.

Owns: the records in Family.COORDINATION, workspace `N` inode -> its names, each a directory and a name. Operations on
an open file name an inode; what covers a path (reservations, WS-45) and what people are told needs the way back.
Never: part of the tree, of its root or of what a worker holds: entries decide, this only follows them.
Invariants: an inode with one name has exactly that one here; of one with more, NAMES_OF_INODE_KEPT at most, the first
of those that are left; an orphan has none. Nothing is read for an inode with one name. A walk up takes one read a
directory, DIRECTORY_DEPTH_MAX at most, and a path longer than PATH_BYTES_MAX is not known.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hypercluster.limits import DIRECTORY_DEPTH_MAX, NAMES_OF_INODE_KEPT, PATH_BYTES_MAX
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, ROOT_ID, Inode

_NAMES: Final = b"N"
_ID_BYTES: Final = len(ROOT_ID)


class Named(NamedTuple):
    """One name of an inode: the directory it stands in, and how it is called there."""

    directory: bytes
    name: bytes


def _key(workspace_id: bytes, inode_id: bytes) -> bytes:
    return workspace_id + _NAMES + inode_id


def _encode(names: list[Named]) -> bytes:
    return b"".join([directory + bytes((len(name),)) + name for directory, name in names])


def _decode(record: bytes) -> list[Named]:
    names, at = [], 0
    while at < len(record):
        start = at + _ID_BYTES + 1
        end = start + record[start - 1]
        names.append(Named(record[at : at + _ID_BYTES], record[start:end]))
        at = end
    return names


def keep_name(overlay: Overlay, workspace_id: bytes, inode: Inode, directory: bytes, name: bytes) -> None:
    """The inode has this name now; its nlink counts it."""
    key = _key(workspace_id, inode.inode_id)
    record = directory + bytes((len(name),)) + name
    if inode.nlink > 1 and inode.kind != KIND_DIRECTORY:
        known = overlay.get(Family.COORDINATION, key) or b""
        if len(_decode(known)) >= NAMES_OF_INODE_KEPT:
            return
        record = known + record
    overlay.put(Family.COORDINATION, key, record)


def lose_name(overlay: Overlay, workspace_id: bytes, inode: Inode, directory: bytes, name: bytes) -> None:
    """The inode is about to lose this name; its nlink still counts it. Of its only name nothing is done: another place
    follows and takes over the record, or `forget_names`."""
    if inode.nlink <= 1 or inode.kind == KIND_DIRECTORY:
        return
    key = _key(workspace_id, inode.inode_id)
    known = overlay.get(Family.COORDINATION, key)
    if known is None:
        return
    names = _decode(known)
    if (directory, name) in names:
        names.remove(Named(directory, name))
        overlay.put(Family.COORDINATION, key, _encode(names))


def forget_names(overlay: Overlay, workspace_id: bytes, inode_id: bytes) -> None:
    """The inode has no name any more."""
    overlay.delete(Family.COORDINATION, _key(workspace_id, inode_id))


def names_of(reader: Reader, workspace_id: bytes, inode_id: bytes) -> list[Named]:
    record = reader.get(Family.COORDINATION, _key(workspace_id, inode_id))
    return [] if record is None else _decode(record)


def place_names(reader: Reader, workspace_id: bytes, directory: bytes, name: bytes) -> list[bytes] | None:
    """The names from the root to a place; None where that is not known."""
    names = [name]
    length = len(name)
    for _ in range(DIRECTORY_DEPTH_MAX):
        if directory == ROOT_ID:
            names.reverse()
            return names
        above = names_of(reader, workspace_id, directory)
        if not above:
            return None
        directory, name = above[0]
        names.append(name)
        length += 1 + len(name)
        if length > PATH_BYTES_MAX:
            return None
    return None


def known_paths(reader: Reader, workspace_id: bytes, inode_id: bytes) -> list[list[bytes]]:
    """The paths of an inode that are known, each as its names from the root."""
    if inode_id == ROOT_ID:
        return [[]]
    places = names_of(reader, workspace_id, inode_id)
    found = [place_names(reader, workspace_id, directory, name) for directory, name in places]
    return [names for names in found if names is not None]


def best_path(reader: Reader, workspace_id: bytes, inode_id: bytes) -> bytes:
    """A path of the inode for people; empty if none is known."""
    paths = known_paths(reader, workspace_id, inode_id)
    return b"/".join(paths[0]) if paths else b""
