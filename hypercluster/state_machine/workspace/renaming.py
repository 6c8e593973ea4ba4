"""Rename with replace semantics, also over an empty directory, and RENAME_NOREPLACE (WS-20, WS-23).

Owns: the verdict, in Linux's order, and the change.
Bounds: two walks towards the root, at most DIRECTORY_DEPTH_MAX steps each (D-4); a deeper target is ENAMETOOLONG.
Invariants: no directory ever becomes its own ancestor; renaming one hard link onto another of the same inode does
nothing, as POSIX says, and still takes a log_index.
"""

from __future__ import annotations

from hypercluster.limits import DIRECTORY_DEPTH_MAX, NLINK_MAX
from hypercluster.pb.v1.workspace_command_pb2 import Rename
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.workspace.errnos import (
    EEXIST,
    EINVAL,
    EISDIR,
    EMLINK,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    refused,
)
from hypercluster.state_machine.workspace.names import (
    change_directory,
    change_metadata,
    directory_named,
    drop_link,
    name_errno,
)
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, ROOT_ID, Inode
from hypercluster.state_machine.workspace.turn import Turn


def rename(turn: Turn, op: Rename) -> FileOutcome | None:
    source = directory_named(turn, op.source.directory)
    if isinstance(source, FileOutcome):
        return source
    target = directory_named(turn, op.target.directory)
    if isinstance(target, FileOutcome):
        return target
    errno = name_errno(op.source.name)
    if errno:
        return refused(errno)
    inode = turn.entry(op.source.directory, op.source.name)
    if inode is None:
        return refused(ENOENT)
    errno = name_errno(op.target.name)
    if errno:
        return refused(errno)
    if not target.nlink:
        return refused(ENOENT)
    replaced = turn.entry(op.target.directory, op.target.name)
    if replaced is not None and op.no_replace:
        return refused(EEXIST)
    if source is not target:
        errno = _ancestry_errno(turn, source, target, inode, replaced)
        if errno:
            return refused(errno)
    turn.subject = inode
    if replaced is inode:
        return None
    errno = _kinds_errno(source, target, inode, replaced)
    if errno:
        return refused(errno)
    _move(turn, op, source, target, inode, replaced)
    return None


def _ancestry_errno(turn: Turn, source: Inode, target: Inode, inode: Inode, replaced: Inode | None) -> int:
    """A directory may not move below itself, nor anything replace a directory it stands in."""
    if inode.kind == KIND_DIRECTORY:
        found = _stands_below(turn, target, inode)
        if found is None:
            return ENAMETOOLONG
        if found:
            return EINVAL
    if replaced is not None and replaced.kind == KIND_DIRECTORY:
        found = _stands_below(turn, source, replaced)
        if found is None:
            return ENAMETOOLONG
        if found:
            return ENOTEMPTY
    return 0


def _stands_below(turn: Turn, directory: Inode, ancestor: Inode) -> bool | None:
    """Whether the directory is `ancestor` or below it; None if the way to the root is too long to tell."""
    for _ in range(DIRECTORY_DEPTH_MAX):
        if directory is ancestor:
            return True
        if directory.inode_id == ROOT_ID:
            return False
        above = turn.inode(directory.parent)
        if above is None:
            return False
        directory = above
    return None


def _kinds_errno(source: Inode, target: Inode, inode: Inode, replaced: Inode | None) -> int:
    is_directory = inode.kind == KIND_DIRECTORY
    if replaced is not None:
        if is_directory and replaced.kind != KIND_DIRECTORY:
            return ENOTDIR
        if not is_directory and replaced.kind == KIND_DIRECTORY:
            return EISDIR
        return ENOTEMPTY if replaced.entry_count else 0
    if is_directory and source is not target and target.nlink >= NLINK_MAX:
        return EMLINK
    return 0


def _move(turn: Turn, op: Rename, source: Inode, target: Inode, inode: Inode, replaced: Inode | None) -> None:
    directories = 1 if inode.kind == KIND_DIRECTORY else 0
    turn.delete_entry(source.inode_id, op.source.name, inode)
    change_directory(turn, source, -1, -directories)
    if replaced is not None:
        turn.lose_name(target.inode_id, op.target.name, replaced)
        drop_link(turn, replaced)
        change_directory(turn, target, -1, -directories)
    turn.put_entry(target.inode_id, op.target.name, inode)
    change_directory(turn, target, 1, directories)
    if directories:
        inode.parent = target.inode_id
    change_metadata(turn, inode)
