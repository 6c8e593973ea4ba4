"""Operations on directory entries: create, mkdir, symlink, link, unlink, rmdir (WS-20 to WS-25).

Owns: their verdicts and their changes; rename stands in renaming.py. Each operation answers None when it is carried
out and a refusal otherwise, with nothing changed.
The order of verdicts is Linux's: the directory, the name, what stands there, the limits.
Invariants: a directory's nlink is 2 and one for each directory in it; its entry_count is exact; every change of a
directory's entries sets its mtime and ctime and both its indexes (WS-17, WS-28).
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from hypercluster.limits import NAME_BYTES_MAX, NLINK_MAX, SYMLINK_TARGET_BYTES_MAX
from hypercluster.pb.v1.workspace_command_pb2 import Create, Link, Mkdir, Place, Rmdir, Symlink, Unlink
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.workspace.errnos import (
    EDQUOT,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    EMLINK,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    refused,
)
from hypercluster.state_machine.workspace.records import (
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_SYMLINK,
    PERMISSION_BITS,
    ROOT_ID,
    Inode,
)
from hypercluster.state_machine.workspace.turn import Turn

ID_BYTES: Final = 16
SYMLINK_MODE: Final = 0o777


def name_errno(name: bytes) -> int:
    """0, or why this can not be a name (WS-16)."""
    if not name:
        return ENOENT
    if len(name) > NAME_BYTES_MAX:
        return ENAMETOOLONG
    if b"/" in name or b"\0" in name or name in {b".", b".."}:
        return EINVAL
    return 0


def directory_at(turn: Turn, place: Place) -> Inode | FileOutcome:
    """The directory of a place, or the refusal when it or the name will not do."""
    directory = directory_named(turn, place.directory)
    errno = name_errno(place.name)
    return refused(errno) if errno and not isinstance(directory, FileOutcome) else directory


def directory_named(turn: Turn, inode_id: bytes) -> Inode | FileOutcome:
    if len(inode_id) != ID_BYTES:
        return refused(EINVAL)
    directory = turn.inode(inode_id)
    if directory is None:
        return refused(ENOENT)
    return refused(ENOTDIR) if directory.kind != KIND_DIRECTORY else directory


def vacant_directory(turn: Turn, place: Place) -> Inode | FileOutcome:
    """The directory of a place where nothing stands yet and something may be put."""
    directory = directory_at(turn, place)
    if isinstance(directory, FileOutcome):
        return directory
    if turn.entry(place.directory, place.name) is not None:
        return refused(EEXIST)
    return directory if directory.nlink else refused(ENOENT)


def change_directory(turn: Turn, directory: Inode, entries: int, subdirectories: int) -> None:
    """Counts and stamps a directory whose entries change."""
    directory.entry_count += entries
    directory.nlink += subdirectories
    directory.mtime_ns = directory.ctime_ns = turn.stamp_ns
    directory.content_index = directory.metadata_index = turn.log_index
    turn.touch(directory)


def change_metadata(turn: Turn, inode: Inode) -> None:
    inode.ctime_ns = turn.stamp_ns
    inode.metadata_index = turn.log_index
    turn.touch(inode)


def _new_inode(turn: Turn, kind: int, mode: int, nlink: int) -> Inode:
    header, stamp_ns = turn.header, turn.stamp_ns
    inode_id, inode_no = turn.name_inode()
    return Inode(
        inode_id,
        kind,
        mode,
        header.uid,
        header.gid,
        nlink,
        inode_no,
        0,
        stamp_ns,
        stamp_ns,
        content_index=turn.log_index,
        metadata_index=turn.log_index,
    )


def _add(turn: Turn, directory: Inode, name: bytes, inode: Inode) -> None:
    turn.add_inode(inode)
    turn.put_entry(directory.inode_id, name, inode)
    change_directory(turn, directory, 1, 1 if inode.kind == KIND_DIRECTORY else 0)
    turn.subject = inode


def _over_quota(turn: Turn) -> bool:
    return not turn.replaying and turn.workspace.ledger.exceeds(0, 1)


def create(turn: Turn, op: Create) -> FileOutcome | None:
    directory = directory_at(turn, op.place)
    if isinstance(directory, FileOutcome):
        return directory
    if op.mode & ~PERMISSION_BITS:
        return refused(EINVAL)
    found = turn.entry(op.place.directory, op.place.name)
    if found is not None:
        if op.exclusive:
            return refused(EEXIST)
        if found.kind != KIND_FILE:
            return refused(EISDIR if found.kind == KIND_DIRECTORY else ELOOP)
        turn.subject, turn.existed = found, True
        return None
    if not directory.nlink:
        return refused(ENOENT)
    if _over_quota(turn):
        return refused(EDQUOT)
    _add(turn, directory, op.place.name, _new_inode(turn, KIND_FILE, op.mode, 1))
    return None


def mkdir(turn: Turn, op: Mkdir) -> FileOutcome | None:
    directory = vacant_directory(turn, op.place)
    if isinstance(directory, FileOutcome):
        return directory
    if op.mode & ~PERMISSION_BITS:
        return refused(EINVAL)
    if directory.nlink >= NLINK_MAX:
        return refused(EMLINK)
    if _over_quota(turn):
        return refused(EDQUOT)
    inode = _new_inode(turn, KIND_DIRECTORY, op.mode, 2)
    inode.parent = directory.inode_id
    _add(turn, directory, op.place.name, inode)
    return None


def symlink(turn: Turn, op: Symlink) -> FileOutcome | None:
    if not op.target:
        return refused(ENOENT)
    if len(op.target) > SYMLINK_TARGET_BYTES_MAX:
        return refused(ENAMETOOLONG)
    if b"\0" in op.target:
        return refused(EINVAL)
    directory = vacant_directory(turn, op.place)
    if isinstance(directory, FileOutcome):
        return directory
    if _over_quota(turn):
        return refused(EDQUOT)
    inode = _new_inode(turn, KIND_SYMLINK, SYMLINK_MODE, 1)
    inode.target, inode.size = op.target, len(op.target)
    inode.content_digest = blake3(op.target).digest()
    _add(turn, directory, op.place.name, inode)
    return None


def link(turn: Turn, op: Link) -> FileOutcome | None:
    inode = turn.inode(op.inode_id)
    if inode is None:
        return refused(ENOENT)
    directory = vacant_directory(turn, op.place)
    if isinstance(directory, FileOutcome):
        return directory
    if inode.kind == KIND_DIRECTORY:
        return refused(EPERM)
    if not inode.nlink:
        return refused(ENOENT)
    if inode.nlink >= NLINK_MAX:
        return refused(EMLINK)
    inode.nlink += 1
    change_metadata(turn, inode)
    turn.put_entry(directory.inode_id, op.place.name, inode)
    change_directory(turn, directory, 1, 0)
    turn.subject = inode
    return None


def unlink(turn: Turn, op: Unlink) -> FileOutcome | None:
    directory = directory_at(turn, op.place)
    if isinstance(directory, FileOutcome):
        return directory
    inode = turn.entry(op.place.directory, op.place.name)
    if inode is None:
        return refused(ENOENT)
    if inode.kind == KIND_DIRECTORY:
        return refused(EISDIR)
    remove_name(turn, directory, op.place.name, inode)
    turn.subject = inode
    return None


def rmdir(turn: Turn, op: Rmdir) -> FileOutcome | None:
    directory = directory_at(turn, op.place)
    if isinstance(directory, FileOutcome):
        return directory
    inode = turn.entry(op.place.directory, op.place.name)
    if inode is None:
        return refused(ENOENT)
    if inode.kind != KIND_DIRECTORY:
        return refused(ENOTDIR)
    if inode.entry_count:
        return refused(ENOTEMPTY)
    remove_name(turn, directory, op.place.name, inode)
    turn.subject = inode
    return None


def remove_name(turn: Turn, directory: Inode, name: bytes, inode: Inode) -> None:
    """Takes the entry away, and the inode out of the tree if it was its last."""
    turn.delete_entry(directory.inode_id, name, inode)
    drop_link(turn, inode)
    change_directory(turn, directory, -1, -1 if inode.kind == KIND_DIRECTORY else 0)


def drop_link(turn: Turn, inode: Inode) -> None:
    if inode.kind == KIND_DIRECTORY or inode.nlink == 1:
        turn.orphan(inode)
        inode.parent = ROOT_ID
    else:
        inode.nlink -= 1
    change_metadata(turn, inode)
