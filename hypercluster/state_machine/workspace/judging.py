"""The verdict on a workspace command: file operations, chunk puts, the making of a workspace.

Owns: `judge`, the derivation of ids from the entry (WS-11), what is checked before any operation (workspace, uid,
base_index), and the numbering of accepted operations.
Never: change anything for a refusal (D-4). A refusal takes no log_index (D-2).
Invariants: log_index rises by exactly one per accepted file operation, sync included; every accepted one leaves one op
log record with the root after it (WS-35, WS-36).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from blake3 import blake3

from hypercluster.limits import CHUNK_BYTES_MAX, SCOPE_NAME_BYTES_MAX
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import ChunkPut, FileCommand, WorkspaceCreate
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.fencing import judge_guards
from hypercluster.state_machine.outcome import (
    BAD_OP_TYPE,
    EXISTS,
    NO_WORKSPACE,
    PRECONDITION_FAILED,
    FileOutcome,
    HazardFound,
)
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace import attributes, names, renaming, writing
from hypercluster.state_machine.workspace.chunks import sender_id
from hypercluster.state_machine.workspace.claims import Coverage, judge_claims, open_claims
from hypercluster.state_machine.workspace.errnos import EACCES, EDQUOT, EINVAL, refused
from hypercluster.state_machine.workspace.hazards import hazard_event, judge_hazard
from hypercluster.state_machine.workspace.oplog import encode_log_record
from hypercluster.state_machine.workspace.paths import best_path
from hypercluster.state_machine.workspace.records import (
    KIND_DIRECTORY,
    PERMISSION_BITS,
    ROOT_ID,
    Header,
    Inode,
    name_key,
)
from hypercluster.state_machine.workspace.state import OpenWorkspace, add_workspace, open_workspace
from hypercluster.state_machine.workspace.turn import Turn, derived_id

# What an operation does, by its name in the oneof.
_OPERATIONS: Final[dict[str, Callable[[Turn, Any], FileOutcome | None]]] = {
    "create": names.create,
    "mkdir": names.mkdir,
    "symlink": names.symlink,
    "link": names.link,
    "unlink": names.unlink,
    "rmdir": names.rmdir,
    "rename": renaming.rename,
    "write": writing.write,
    "truncate": writing.truncate,
    "chmod": attributes.chmod,
    "chown": attributes.chown,
    "utimens": attributes.utimens,
    "set_xattr": attributes.set_xattr,
    "remove_xattr": attributes.remove_xattr,
    "sync": attributes.sync,
}
_PLACED: Final = frozenset({"create", "mkdir", "symlink", "unlink", "rmdir"})
_CONTENT: Final = frozenset({"write", "truncate"})
_NAME_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")

_NO_WORKSPACE: Final = FileOutcome(reason=NO_WORKSPACE)
_BAD_OPERATION: Final = FileOutcome(reason=BAD_OP_TYPE)
_EXISTS: Final = FileOutcome(reason=EXISTS)


def judge(ctx: OpContext, command: Command) -> FileOutcome:
    """Judges a file command, a chunk put or a workspace's making, and carries it out in the overlay."""
    kind = command.WhichOneof("kind")
    if kind == "workspace_create":
        return _judge_create(ctx, command.workspace_create)
    workspace = find_workspace(ctx)
    if workspace is None:
        return _NO_WORKSPACE
    if kind == "file":
        return _judge_file(ctx, workspace, command.file)
    if kind == "chunk_put":
        return _judge_chunk(ctx, workspace, command.chunk_put)
    return _BAD_OPERATION


def find_workspace(ctx: OpContext) -> OpenWorkspace | None:
    """The workspace the command names; one of another scope is none."""
    workspace = open_workspace(ctx.overlay, ctx.workspace_id)
    if workspace is None:
        return None
    header = workspace.header
    if header.org != ctx.scope.org or header.project != ctx.scope.project:
        return None
    return workspace


def _judge_file(ctx: OpContext, workspace: OpenWorkspace, command: FileCommand) -> FileOutcome:
    claims = workspace.claims or open_claims(ctx.overlay, workspace)
    reserved = False
    if claims.may_matter(ctx.stamp_ns):
        coverage = judge_claims(ctx, claims, workspace.header.workspace_id, command)
        if coverage is Coverage.DENIED:
            return refused(EACCES)
        reserved = coverage is Coverage.RESERVED
    turn = Turn(ctx.overlay, workspace, ctx.stamp_ns, None, ctx.effects.chunks, ctx)
    refusal = _judge_guards(turn, command) if command.guards else None
    if refusal is None:
        refusal = carry_out(turn, command)
    if refusal is not None:
        return refusal
    hazard = None if reserved else judge_hazard(ctx, turn, command)
    root = turn.commit()
    outcome = _accepted(turn, root, None if hazard is None else hazard.found)
    record = encode_log_record(ctx, outcome, reserved)
    if hazard is not None:
        path = best_path(ctx.overlay, workspace.header.workspace_id, outcome.inode_id)
        ctx.effects.events.append((workspace.header.workspace_id, hazard_event(ctx, outcome, hazard, path)))
    records = ctx.effects.log_records.get(workspace.header.workspace_id)
    if records is None:
        ctx.effects.log_records[workspace.header.workspace_id] = [record]
    else:
        records.append(record)
    return outcome


def carry_out(turn: Turn, command: FileCommand) -> FileOutcome | None:
    """Judges and does one operation, short of its commit; None when it was done."""
    name = command.WhichOneof("op")
    if name is None:
        return _BAD_OPERATION
    turn.operation = name
    if command.HasField("uid") and command.uid != turn.header.uid:
        return refused(EACCES)
    if command.HasField("base_index"):
        refusal = _judge_base(turn, command, name)
        if refusal is not None:
            return refusal
    return _OPERATIONS[name](turn, getattr(command, name))


def _judge_base(turn: Turn, command: FileCommand, name: str) -> FileOutcome | None:
    """WS-28: refused if the node has changed since the writer looked. What is not there is judged by the operation."""
    inode = _concerned(turn, getattr(command, name), name)
    if inode is None:
        return None
    present = inode.content_index if name in _CONTENT else inode.metadata_index
    if present <= command.base_index:
        return None
    return FileOutcome(reason=PRECONDITION_FAILED, present_index=present)


def _judge_guards(turn: Turn, command: FileCommand) -> FileOutcome | None:
    """WS-42: a guard that names no target is about what `base_index` would be about."""
    name = command.WhichOneof("op")
    if name is None:
        return _BAD_OPERATION
    inode = _concerned(turn, getattr(command, name), name)
    concerned = None if inode is None else inode.inode_id
    return judge_guards(turn.overlay, turn.header.workspace_id, command.guards, concerned)


def _concerned(turn: Turn, op: Any, name: str) -> Inode | None:
    """The node an operation is about: what its name stands for, or the directory where nothing has the name yet, as
    that is what the writer looked at."""
    if name in _PLACED or name == "rename":
        place = op.source if name == "rename" else op.place
        return turn.entry(place.directory, place.name) or turn.inode(place.directory)
    return turn.inode(op.inode_id)


def _accepted(turn: Turn, root: bytes, hazard: HazardFound | None) -> FileOutcome:
    subject = turn.subject
    return FileOutcome(
        0,
        0,
        turn.log_index,
        turn.stamp_ns,
        root,
        subject.inode_id if subject else b"",
        subject.inode_no if subject else 0,
        turn.applied_offset,
        0,
        (),
        turn.existed,
        None,
        hazard,
    )


def _judge_chunk(ctx: OpContext, workspace: OpenWorkspace, put: ChunkPut) -> FileOutcome:
    """WS-32: the bytes must have the hash they come under, whatever the leader checked."""
    content = put.content
    if not content or len(content) > CHUNK_BYTES_MAX or blake3(content).digest() != put.hash:
        return refused(EINVAL)
    ledger = workspace.ledger
    if ledger.presence(put.hash) is None and ledger.exceeds(len(content), 0):
        return refused(EDQUOT)
    if ledger.send(put.hash, len(content), ctx.stamp_ns, sender_id(ctx.worker, ctx.principal)):
        ctx.effects.chunks[put.hash] = content
        workspace.changed = True
    return FileOutcome(stamp_ns=ctx.stamp_ns)


def _judge_create(ctx: OpContext, op: WorkspaceCreate) -> FileOutcome:
    name = op.name.encode()
    if not name or len(name) > SCOPE_NAME_BYTES_MAX or not _NAME_BYTES.issuperset(name) or op.mode & ~PERMISSION_BITS:
        return refused(EINVAL)
    overlay, scope = ctx.overlay, ctx.scope
    key = name_key(scope.org, scope.project, op.name)
    if overlay.get(Family.TREE, key) is not None:
        return _EXISTS
    workspace_id = derived_id(ctx.id_seed, ctx.ordinal, b"workspace")
    overlay.put(Family.TREE, key, workspace_id)
    stamp_ns = ctx.stamp_ns
    header = Header(workspace_id, op.name, scope.org, scope.project, op.uid, op.gid, created_ns=stamp_ns)
    workspace = add_workspace(overlay, header)
    turn = Turn(overlay, workspace, stamp_ns, (ROOT_ID, stamp_ns), ctx.effects.chunks, ctx)
    turn.log_index = 0  # the workspace begins before its first operation
    root = Inode(ROOT_ID, KIND_DIRECTORY, op.mode, op.uid, op.gid, 2, stamp_ns, 0, stamp_ns, stamp_ns)
    turn.add_inode(root)
    digest = turn.commit()
    return FileOutcome(stamp_ns=stamp_ns, root=digest, inode_id=workspace_id, inode_no=stamp_ns)
