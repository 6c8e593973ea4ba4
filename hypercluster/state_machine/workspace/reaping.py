"""Orphans: who keeps them, and their removal (WS-27, WS-44).

Owns: the verdicts on OpenLeaseChanges and Reap, and what the leader reads to propose them. An orphan goes only when it
has no name, no worker has it open, and ORPHAN_KEEP_MS have passed since it lost its last name, whoever proposed it.
Never: a log_index or a root: orphans have no leaf, and a reap is not in the op log. A worker lets go of those it has
by itself (orphans.py).
Bounds: a reap stops where the next inode could take it over COMMAND_KEYS_MAX keys; the rest is due again. What is left
of that bound empties pages that wait to be reclaimed, so that an idle workspace gets rid of them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from hypercluster.limits import (
    COMMAND_KEYS_MAX,
    OPEN_LEASES_A_COMMAND_MAX,
    ORPHAN_KEEP_MS,
    ORPHANS_A_LOOK,
    PRINCIPAL_BYTES_MAX,
    REAP_A_COMMAND_MAX,
)
from hypercluster.pb.v1.coordination_command_pb2 import OpenLeaseChanges, Reap
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.leases import begin_lease, end_lease, is_leased
from hypercluster.state_machine.meta import read_applied
from hypercluster.state_machine.outcome import NO_WORKSPACE, OK, HubOutcome
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.attributes import XattrRow, read_table, table_key, value_key
from hypercluster.state_machine.workspace.content import PAGE_EXTENTS, Dropped
from hypercluster.state_machine.workspace.extents import decode_extents
from hypercluster.state_machine.workspace.queries import read_header
from hypercluster.state_machine.workspace.reclaim import queue_pages, reclaim_pages
from hypercluster.state_machine.workspace.records import (
    KIND_FILE,
    ORPHAN,
    Inode,
    inode_key,
    prefix_end,
)
from hypercluster.state_machine.workspace.state import open_workspace
from hypercluster.state_machine.workspace.turn import Turn

_MS: Final = 1_000_000
_STAMP: Final = Struct(">Q")
_ID_BYTES: Final = 16

# Keys that may change: header and account and what the entry supersedes; of an inode its record, its xattr table, its
# mark as an orphan and a place in the queue of pages. A tree record that is removed is three: itself, its last version,
# and where that stands. Emptying a page changes its chunks, or puts its children into the queue.
_KEYS_OF_REAP: Final = 4
_KEYS_OF_RECORD: Final = 3
_KEYS_OF_INODE: Final = 2 * _KEYS_OF_RECORD + 2
_KEYS_OF_PAGE: Final = PAGE_EXTENTS + _KEYS_OF_RECORD + 1


def judge_open_leases(ctx: OpContext, command: OpenLeaseChanges) -> HubOutcome:
    """`version` counts what changed. What is said already, or of no inode there is, is left out."""
    overlay, workspace_id = ctx.overlay, command.workspace_id
    if open_workspace(overlay, workspace_id) is None:
        return HubOutcome(NO_WORKSPACE, 0)
    changed = 0
    for lease in command.ended[:OPEN_LEASES_A_COMMAND_MAX]:
        changed += end_lease(overlay, workspace_id, lease.inode_id, lease.worker)
    left = OPEN_LEASES_A_COMMAND_MAX - min(len(command.ended), OPEN_LEASES_A_COMMAND_MAX)
    for lease in command.opened[:left]:
        if len(lease.inode_id) != _ID_BYTES or not 1 <= len(lease.worker.encode()) <= PRINCIPAL_BYTES_MAX:
            continue
        if overlay.get(Family.TREE, inode_key(workspace_id, lease.inode_id)) is not None:
            changed += begin_lease(overlay, workspace_id, lease.inode_id, lease.worker, int(ctx.stamp_ns))
    return HubOutcome(OK, changed)


def judge_reap(ctx: OpContext, command: Reap) -> HubOutcome:
    """`version` counts the inodes removed."""
    workspace = open_workspace(ctx.overlay, command.workspace_id)
    if workspace is None:
        return HubOutcome(NO_WORKSPACE, 0)
    # Its chunks die with the operation that comes next: a snapshot of the tree as it was still holds them.
    turn = Turn(ctx.overlay, workspace, int(ctx.stamp_ns), None, ctx.effects.chunks, ctx)
    budget, removed = COMMAND_KEYS_MAX - _KEYS_OF_REAP, 0
    for inode_id in dict.fromkeys(command.inode_ids[:REAP_A_COMMAND_MAX]):
        inode = turn.inode(inode_id) if len(inode_id) == _ID_BYTES else None
        if inode is None or not _is_due(ctx.overlay, command.workspace_id, inode, int(ctx.stamp_ns)):
            continue
        rows = read_table(ctx.overlay, command.workspace_id, inode_id) if inode.xattr_bytes else []
        cost = _KEYS_OF_INODE + _KEYS_OF_RECORD * len(rows) + _extents_inside(inode)
        if cost > budget:
            break
        budget -= cost
        _remove(turn, inode, rows)
        removed += 1
    header = workspace.header
    pages = min(budget // _KEYS_OF_PAGE, header.reclaim_next - header.reclaim_first)
    reclaim_pages(ctx.overlay, header, turn.count_chunk, turn.remove, pages)
    if removed or pages:
        turn.settle_chunks()
        workspace.changed = True
    return HubOutcome(OK, removed)


def _is_due(reader: Reader, workspace_id: bytes, inode: Inode, stamp_ns: int) -> bool:
    if inode.nlink or inode.orphaned_ns + ORPHAN_KEEP_MS * _MS > stamp_ns:
        return False
    return not is_leased(reader, workspace_id, inode.inode_id)


def _extents_inside(inode: Inode) -> int:
    return inode.extent_count if inode.kind == KIND_FILE and not inode.root_page else 0


def _remove(turn: Turn, inode: Inode, rows: list[XattrRow]) -> None:
    workspace_id, inode_id = turn.header.workspace_id, inode.inode_id
    if inode.root_page:
        queue_pages(turn.overlay, turn.header, inode_id, [Dropped(inode.root_page, inode.extent_count)])
    else:
        for extent in decode_extents(inode.extents):
            turn.count_chunk(extent.chunk_hash, -1)
    for row in rows:
        turn.remove(value_key(workspace_id, inode_id, row.name))
    if rows:
        turn.remove(table_key(workspace_id, inode_id))
    turn.remove(inode_key(workspace_id, inode_id))
    turn.overlay.delete(Family.TREE, workspace_id + ORPHAN + _STAMP.pack(inode.orphaned_ns) + inode_id)
    turn.header.orphan_count -= 1
    turn.forget(inode_id)


@dataclass(frozen=True, slots=True)
class DueOrphans:
    """What a leader proposes next. `next_due_ns`: the stamp from which there is more without anything changing, 0 for
    none; leases that end may come before. `pages`: how many wait to be reclaimed. `after`: where to go on at once, as
    not all was looked at; empty when the end was reached. `first`: where the first orphan behind `begin` stands, or
    would stand: whoever looks again may begin there, as the stamps of those to come are above all there are."""

    inode_ids: tuple[bytes, ...]
    next_due_ns: int
    pages: int
    after: bytes = b""
    first: bytes = b""


def due_orphans(
    reader: Reader,
    workspace_id: bytes,
    stamp_ns: int,
    after: bytes = b"",
    limit: int = REAP_A_COMMAND_MAX,
    looked_at_max: int = ORPHANS_A_LOOK,
    begin: bytes = b"",
) -> DueOrphans:
    """Orphans that a reap of this stamp would remove, the oldest first; those with leases are passed over. A look from
    further down than it needs passes over all that were reaped, for as long as the store has not compacted them."""
    header = read_header(reader, workspace_id)
    pages = 0 if header is None else header.reclaim_next - header.reclaim_first
    prefix = workspace_id + ORPHAN
    found: list[bytes] = []
    place, first = after, b""
    start = prefix + after + b"\0" if after else prefix + begin
    for looked_at, (key, _) in enumerate(reader.scan(Family.TREE, start, prefix_end(prefix))):
        first = first or key[len(prefix) :]
        due_ns = _STAMP.unpack_from(key, len(prefix))[0] + ORPHAN_KEEP_MS * _MS
        if due_ns > stamp_ns:
            return DueOrphans(tuple(found), due_ns, pages, first=first)
        if len(found) == limit or looked_at == looked_at_max:
            return DueOrphans(tuple(found), stamp_ns, pages, place, first)
        place = key[len(prefix) :]
        inode_id = key[-_ID_BYTES:]
        if not is_leased(reader, workspace_id, inode_id):
            found.append(inode_id)
    return DueOrphans(
        tuple(found), 0, pages, first=first or max(begin, _STAMP.pack(read_applied(reader).last_stamp_ns))
    )
