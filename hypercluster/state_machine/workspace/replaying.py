"""Replay of an op log by a worker: the same operations over its own store, each root checked (WS-1, WS-5, WS-36).

Owns: `replay`, which does one LogRecord to the tree and says what changed in words a materialising worker acts on.
A replica may let an orphan go before the cluster does (`orphans.let_go`): operations on what it no longer has leave
the root as it was, and are passed over.
Never: a second judgement. The record was accepted; a replay that would refuse it, or arrives at another offset, id or
root, has found damage and says so in `problem`. Its changes must then be thrown away (`Overlay.discard`).
Invariants: records are replayed in order without gaps; after `take_replayed` the changes hold everything up to the last
record, and the store they are written to can go on from there after any restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3
from google.protobuf.message import DecodeError

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand, LogRecord
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.judging import carry_out
from hypercluster.state_machine.workspace.records import Inode
from hypercluster.state_machine.workspace.state import flush_workspaces, open_workspace
from hypercluster.state_machine.workspace.turn import Turn


@dataclass(frozen=True, slots=True)
class Made:
    """A new file, directory or symlink under its first name."""

    inode: Inode
    directory: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Linked:
    """A further name of an inode."""

    inode: Inode
    directory: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """A name is gone; `inode.nlink` says whether it was the last."""

    inode: Inode
    directory: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Renamed:
    """`replaced` lost the target name; its nlink says whether that was its last."""

    inode: Inode
    directory: bytes
    name: bytes
    new_directory: bytes
    new_name: bytes
    replaced: Inode | None


@dataclass(frozen=True, slots=True)
class Written:
    """The content of [offset, offset + length) is now what these extents say; they cover it without gaps."""

    inode: Inode
    offset: int
    length: int
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Resized:
    """The file has `inode.size` bytes now; what was added reads as zeros."""

    inode: Inode


@dataclass(frozen=True, slots=True)
class Attributed:
    """Mode or mtime changed."""

    inode: Inode


@dataclass(frozen=True, slots=True)
class XattrSet:
    """`value` None: the attribute is gone."""

    inode: Inode
    name: bytes
    value: bytes | None


# Operations that reach an inode by its id, named or not.
_BY_INODE: Final = frozenset({"write", "truncate", "chmod", "chown", "utimens", "set_xattr", "remove_xattr", "sync"})

TreeEffect = Made | Linked | Removed | Renamed | Written | Resized | Attributed | XattrSet


@dataclass(frozen=True, slots=True)
class ReplayEffects:
    """What one LogRecord did. `touched`: every inode whose attributes changed, directories included; `chunks`: content
    that came with the operation (inline) or was made by it (coalesced)."""

    log_index: int
    root: bytes
    effect: TreeEffect | None  # None: sync, an existing file created again, a rename onto the same inode
    touched: tuple[Inode, ...]
    chunks: dict[bytes, bytes]
    problem: str = ""


def replay(overlay: Overlay, workspace_id: bytes, record: LogRecord) -> ReplayEffects:
    """Does one accepted operation to the tree in the overlay."""
    workspace = open_workspace(overlay, workspace_id)
    if workspace is None:
        return _failed(record, "the workspace is not in the store")
    if record.log_index != workspace.header.log_index + 1:
        return _failed(record, f"log_index {record.log_index} follows {workspace.header.log_index}")
    try:
        command = Command.FromString(record.command).file
    except DecodeError:
        return _failed(record, "the command does not parse")
    chunks: dict[bytes, bytes] = {}
    turn = Turn(overlay, workspace, record.committed_at_ns, (record.inode_id, record.inode_no), chunks, context=None)
    before = _place_before(turn, command)
    refusal = carry_out(turn, command)
    if refusal is not None and _is_of_an_orphan_let_go(turn, command, record):
        turn.commit()
        workspace.header.raft_index = record.raft_index
        return ReplayEffects(record.log_index, record.root, None, (), {})
    if refusal is not None:
        return _failed(record, f"the operation was accepted and is refused here: {_words(refusal)}")
    root = turn.commit()
    workspace.header.raft_index = record.raft_index
    problem = _difference(turn, record, root)
    effect = _effect(turn, command, before)
    return ReplayEffects(record.log_index, root, effect, tuple(turn.changed), chunks, problem)


def take_replayed(overlay: Overlay) -> list[Change]:
    """Everything the replayed records changed, to be written in one transaction."""
    flush_workspaces(overlay)
    return overlay.take_changes()


def _failed(record: LogRecord, problem: str) -> ReplayEffects:
    return ReplayEffects(record.log_index, b"", None, (), {}, problem)


def _is_of_an_orphan_let_go(turn: Turn, command: FileCommand, record: LogRecord) -> bool:
    """The inode is not here, and the operation changed nothing that the root covers."""
    name = command.WhichOneof("op")
    if name not in _BY_INODE or turn.changed or record.root != turn.workspace.tree.root_hash:
        return False
    return turn.inode(getattr(command, name).inode_id) is None


def _words(refusal: FileOutcome) -> str:
    return f"errno {refusal.errno}" if refusal.errno else f"reason {refusal.reason}"


def _difference(turn: Turn, record: LogRecord, root: bytes) -> str:
    if root != record.root:
        return f"the root is {root.hex()} where the log has {record.root.hex()}"
    subject = turn.subject
    if subject is not None and (subject.inode_id, subject.inode_no) != (record.inode_id, record.inode_no):
        return "the operation concerns another inode than the log says"
    if turn.applied_offset != record.applied_offset:
        return f"the write began at {turn.applied_offset} where the log has {record.applied_offset}"
    return ""


def _place_before(turn: Turn, command: FileCommand) -> Inode | None:
    """What stood at the target of a rename."""
    if not command.HasField("rename"):
        return None
    target = command.rename.target
    return turn.entry(target.directory, target.name)


def _effect(turn: Turn, command: FileCommand, before: Inode | None) -> TreeEffect | None:
    inode = turn.subject
    name = command.WhichOneof("op")
    if inode is None or not turn.changed or name is None:
        return None
    op: Any = getattr(command, name)
    match name:
        case "create" | "mkdir" | "symlink":
            return Made(inode, op.place.directory, op.place.name)
        case "link":
            return Linked(inode, op.place.directory, op.place.name)
        case "unlink" | "rmdir":
            return Removed(inode, op.place.directory, op.place.name)
        case "rename":
            source, target = op.source, op.target
            return Renamed(inode, source.directory, source.name, target.directory, target.name, before)
        case "write":
            extents = _written_extents(turn.applied_offset, op)
            return Written(inode, turn.applied_offset, sum([extent.length for extent in extents]), extents)
        case "truncate":
            return Resized(inode)
        case "set_xattr":
            return XattrSet(inode, op.name, op.value)
        case "remove_xattr":
            return XattrSet(inode, op.name, None)
        case _:
            return Attributed(inode)


def _written_extents(offset: int, op: Any) -> tuple[Extent, ...]:
    if op.inline:
        return (Extent(offset, len(op.inline), 0, blake3(op.inline).digest()),)
    extents: list[Extent] = []
    for piece in op.pieces:
        extents.append(Extent(offset, piece.length, piece.chunk_offset, piece.hash))
        offset += piece.length
    return tuple(extents)
