"""Operations on an inode's metadata: chmod, chown, utimens, setxattr, removexattr, sync (WS-15, WS-20, WS-24).

Owns: their verdicts and changes, and the xattr records: one table per inode (sorted names, lengths and hashes of the
values), whose hash is the inode's xattr digest, and one record per value.
Bounds: XATTRS_MAX attributes an inode, so that the table is one bounded record.
Invariants: ctime is the operation's stamp; operations name the inode by id, so they reach it under any name or none.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from blake3 import blake3

from hypercluster.limits import XATTR_NAME_BYTES_MAX, XATTR_TOTAL_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX
from hypercluster.pb.v1.workspace_command_pb2 import (
    XATTR_FLAG_ANY,
    XATTR_FLAG_CREATE,
    XATTR_FLAG_REPLACE,
    Chmod,
    Chown,
    RemoveXattr,
    SetXattr,
    Sync,
    Utimens,
)
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.errnos import (
    E2BIG,
    EEXIST,
    EINVAL,
    ENODATA,
    ENOENT,
    ENOSPC,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    refused,
)
from hypercluster.state_machine.workspace.names import change_metadata
from hypercluster.state_machine.workspace.records import (
    KIND_SYMLINK,
    PERMISSION_BITS,
    XATTR_TABLE,
    XATTR_VALUE,
    ZERO_HASH,
    Inode,
    body_of,
)
from hypercluster.state_machine.workspace.turn import Turn

_ROW: Final = Struct(">BI32s")


class XattrRow(NamedTuple):
    name: bytes
    length: int
    value_hash: bytes


def table_key(workspace_id: bytes, inode_id: bytes) -> bytes:
    return workspace_id + XATTR_TABLE + inode_id


def value_key(workspace_id: bytes, inode_id: bytes, name: bytes) -> bytes:
    return workspace_id + XATTR_VALUE + inode_id + name


def encode_table(rows: list[XattrRow]) -> bytes:
    return b"".join([_ROW.pack(len(row.name), row.length, row.value_hash) + row.name for row in rows])


def decode_table(body: bytes) -> list[XattrRow]:
    rows, at = [], 0
    while at < len(body):
        name_bytes, length, value_hash = _ROW.unpack_from(body, at)
        at += _ROW.size + name_bytes
        rows.append(XattrRow(body[at - name_bytes : at], length, value_hash))
    return rows


def read_table(reader: Reader, workspace_id: bytes, inode_id: bytes) -> list[XattrRow]:
    record = reader.get(Family.TREE, table_key(workspace_id, inode_id))
    return [] if record is None else decode_table(body_of(record))


def chmod(turn: Turn, op: Chmod) -> FileOutcome | None:
    inode = turn.inode(op.inode_id)
    if inode is None:
        return refused(ENOENT)
    if op.mode & ~PERMISSION_BITS:
        return refused(EINVAL)
    if inode.kind == KIND_SYMLINK:
        return refused(EOPNOTSUPP)
    inode.mode = op.mode
    _changed(turn, inode)
    return None


def chown(turn: Turn, op: Chown) -> FileOutcome | None:
    inode = turn.inode(op.inode_id)
    if inode is None:
        return refused(ENOENT)
    if (op.uid, op.gid) != (turn.header.uid, turn.header.gid):
        return refused(EPERM)
    _changed(turn, inode)
    return None


def utimens(turn: Turn, op: Utimens) -> FileOutcome | None:
    inode = turn.inode(op.inode_id)
    if inode is None:
        return refused(ENOENT)
    inode.mtime_ns = op.mtime_ns if op.HasField("mtime_ns") else turn.stamp_ns
    _changed(turn, inode)
    return None


def sync(turn: Turn, op: Sync) -> FileOutcome | None:
    """fsync, fdatasync, fsyncdir: nothing changes; whatever came before is durable once this is (WS-26)."""
    inode = turn.inode(op.inode_id)
    if inode is None:
        return refused(ENOENT)
    if inode.kind == KIND_SYMLINK:
        return refused(EINVAL)
    turn.subject = inode
    return None


def set_xattr(turn: Turn, op: SetXattr) -> FileOutcome | None:
    inode = _with_xattrs(turn, op.inode_id, op.name)
    if isinstance(inode, FileOutcome):
        return inode
    if len(op.value) > XATTR_VALUE_BYTES_MAX:
        return refused(E2BIG)
    if op.flag not in {XATTR_FLAG_ANY, XATTR_FLAG_CREATE, XATTR_FLAG_REPLACE}:
        return refused(EINVAL)
    rows = _rows(turn, inode)
    old = next((row for row in rows if row.name == op.name), None)
    if old is not None and op.flag == XATTR_FLAG_CREATE:
        return refused(EEXIST)
    if old is None and op.flag == XATTR_FLAG_REPLACE:
        return refused(ENODATA)
    total = inode.xattr_bytes + len(op.value) + (len(op.name) if old is None else -old.length)
    if total > XATTR_TOTAL_BYTES_MAX or (old is None and len(rows) >= XATTRS_MAX):
        return refused(ENOSPC)
    inode.xattr_bytes = total
    turn.store(value_key(turn.header.workspace_id, inode.inode_id, op.name), op.value)
    row = XattrRow(op.name, len(op.value), blake3(op.value).digest())
    _store_rows(turn, inode, sorted([*(kept for kept in rows if kept.name != op.name), row]))
    _changed(turn, inode)
    return None


def remove_xattr(turn: Turn, op: RemoveXattr) -> FileOutcome | None:
    inode = _with_xattrs(turn, op.inode_id, op.name)
    if isinstance(inode, FileOutcome):
        return inode
    rows = _rows(turn, inode)
    old = next((row for row in rows if row.name == op.name), None)
    if old is None:
        return refused(ENODATA)
    inode.xattr_bytes -= len(old.name) + old.length
    turn.remove(value_key(turn.header.workspace_id, inode.inode_id, op.name))
    _store_rows(turn, inode, [row for row in rows if row is not old])
    _changed(turn, inode)
    return None


def _with_xattrs(turn: Turn, inode_id: bytes, name: bytes) -> Inode | FileOutcome:
    inode = turn.inode(inode_id)
    if inode is None:
        return refused(ENOENT)
    if not name or len(name) > XATTR_NAME_BYTES_MAX:
        return refused(ERANGE)
    if b"\0" in name:
        return refused(EINVAL)
    return refused(EPERM) if inode.kind == KIND_SYMLINK else inode


def _rows(turn: Turn, inode: Inode) -> list[XattrRow]:
    if not inode.xattr_bytes:
        return []
    return read_table(turn.overlay, turn.header.workspace_id, inode.inode_id)


def _store_rows(turn: Turn, inode: Inode, rows: list[XattrRow]) -> None:
    key = table_key(turn.header.workspace_id, inode.inode_id)
    if rows:
        table = encode_table(rows)
        turn.store(key, table)
        inode.xattr_digest = blake3(table).digest()
    else:
        turn.remove(key)
        inode.xattr_digest = ZERO_HASH


def _changed(turn: Turn, inode: Inode) -> None:
    change_metadata(turn, inode)
    turn.subject = inode
