"""Workspace snapshots as records of the state (WS-53).

Owns: the records of snapshots in Family.CHUNKS, `m` workspace log_index -> root, Raft index, stamp, and the verdicts on
SnapshotMark and SnapshotDrop. They stand beside the chunks because it is chunks that they keep (retention.py).
Never: the pages of a snapshot: each node takes those of its own state, as `Applied.snapshots` tells it.
Invariants: a snapshot stands at the end of the entry that marked it, so that the tree is the one the entry's changes
leave; there is one at most per log_index, and SNAPSHOTS_MAX a workspace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Final, NamedTuple

from hypercluster.limits import SNAPSHOTS_MAX
from hypercluster.pb.v1.retention_command_pb2 import SnapshotDrop, SnapshotMark
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.keys import number
from hypercluster.state_machine.outcome import LIMIT, NO_WORKSPACE, OK, PRECONDITION_FAILED, HubOutcome, MarkedSnapshot
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.records import ROOT_ID, prefix_end
from hypercluster.state_machine.workspace.state import OpenWorkspace, open_workspace

_SNAPSHOT: Final = b"m"
_RECORD: Final = Struct(">32sQQ")


class Snapshot(NamedTuple):
    """A kept workspace snapshot: the tree as it was after the operation `log_index`."""

    log_index: int
    root: bytes
    raft_index: int
    stamp_ns: int


def _prefix(workspace_id: bytes) -> bytes:
    return _SNAPSHOT + workspace_id


def _decode(key: bytes, record: bytes) -> Snapshot:
    return Snapshot(int.from_bytes(key[-8:], "big"), *_RECORD.unpack(record))


def list_snapshots(reader: Reader, workspace_id: bytes, after_log_index: int = 0) -> Iterator[Snapshot]:
    """Kept snapshots above an index, oldest first."""
    prefix = _prefix(workspace_id)
    for key, record in reader.scan(Family.CHUNKS, prefix + number(after_log_index + 1), prefix_end(prefix)):
        yield _decode(key, record)


def newest_snapshot(reader: Reader, workspace_id: bytes) -> Snapshot | None:
    prefix = _prefix(workspace_id)
    found = next(iter(reader.scan(Family.CHUNKS, prefix, prefix_end(prefix), reverse=True)), None)
    return None if found is None else _decode(*found)


def read_snapshot(reader: Reader, workspace_id: bytes, log_index: int) -> Snapshot | None:
    key = _prefix(workspace_id) + number(log_index)
    record = reader.get(Family.CHUNKS, key)
    return None if record is None else _decode(key, record)


def mark_snapshot(ctx: OpContext, mark: SnapshotMark) -> HubOutcome:
    """Takes effect at the end of the entry. Refused if nothing changed since the last snapshot, or if that is not the
    one the proposer knew; `version` is then its log_index, and for an accepted mark the log_index as of this command.
    """
    workspace = open_workspace(ctx.overlay, mark.workspace_id)
    if workspace is None:
        return HubOutcome(NO_WORKSPACE, 0)
    newest = newest_snapshot(ctx.overlay, mark.workspace_id)
    last = 0 if newest is None else newest.log_index
    marked = mark.workspace_id in ctx.effects.snapshot_marks
    if marked or mark.after_log_index != last or workspace.header.log_index <= last:
        return HubOutcome(PRECONDITION_FAILED, last)
    if sum(1 for _ in list_snapshots(ctx.overlay, mark.workspace_id)) >= SNAPSHOTS_MAX:
        return HubOutcome(LIMIT, last)
    ctx.effects.snapshot_marks[mark.workspace_id] = ctx.index, ctx.stamp_ns
    return HubOutcome(OK, workspace.header.log_index)


def flush_marks(overlay: Overlay, effects: Effects, workspaces: Mapping[bytes, OpenWorkspace]) -> None:
    """Once an entry, after the headers were written: the snapshots it marked."""
    for workspace_id, (index, stamp_ns) in effects.snapshot_marks.items():
        header = workspaces[workspace_id].header
        key = _prefix(workspace_id) + number(header.log_index)
        overlay.put(Family.CHUNKS, key, _RECORD.pack(header.root, index, stamp_ns))
        effects.marked.append(MarkedSnapshot(workspace_id, header.log_index, header.root))


def drop_snapshot(ctx: OpContext, drop: SnapshotDrop) -> HubOutcome:
    if len(drop.workspace_id) != len(ROOT_ID) or read_snapshot(ctx.overlay, drop.workspace_id, drop.log_index) is None:
        return HubOutcome(PRECONDITION_FAILED, 0)
    ctx.overlay.delete(Family.CHUNKS, _prefix(drop.workspace_id) + number(drop.log_index))
    return HubOutcome(OK, 1)
