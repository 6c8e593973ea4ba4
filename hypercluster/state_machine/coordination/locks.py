"""The verdicts on LockAcquire, LockRelease and LockReclaim (WS-40, WS-43, WS-47).

Owns: the order of their questions. An acquire is answered at once: granted with a token, queued with a ticket, or
refused, so that it never holds up its client's next seq. Owner is (client, handle); an owner has one request for a
target at most, and a second acquire of another kind converts it.
Never: a lease's time. Those run on the leader's clock and end by LockSteps (steps.py).
Invariants: a refusal changes nothing; who is not an owner's own earlier lock never loses its place to a later request.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hypercluster.limits import (
    LOCK_PERMITS_MAX,
    LOCK_QUEUE_MAX,
    LOCK_WAIT_MS_MAX,
    LOCKS_OF_CLIENT_MAX,
    LOCKS_OF_WORKSPACE_MAX,
)
from hypercluster.pb.v1.coordination_command_pb2 import LockAcquire, LockReclaim, LockRelease
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination import graph, queue
from hypercluster.state_machine.coordination.records import (
    EXCLUSIVE,
    FREE,
    PERMIT,
    QUEUED,
    SHARED,
    Request,
    Row,
    Table,
    Target,
)
from hypercluster.state_machine.coordination.targets import read_target
from hypercluster.state_machine.coordination.turn import LOST, RELEASED, WAIT_ENDED, LockTurn
from hypercluster.state_machine.outcome import FENCED, LIMIT, LOCK_HELD_EXPIRING, FileOutcome, LockGrant
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.errnos import EDEADLK, EINVAL, ENOENT, EWOULDBLOCK, refused
from hypercluster.state_machine.workspace.records import inode_key
from hypercluster.values import InodeId

_NS_A_MS: Final = 1_000_000

_FENCED: Final = FileOutcome(reason=FENCED)
_LIMIT: Final = FileOutcome(reason=LIMIT)
_EXPIRING: Final = FileOutcome(reason=LOCK_HELD_EXPIRING, errno=EWOULDBLOCK)


class _Asked(NamedTuple):
    """An acquire whose fields make sense."""

    target: Target
    kind: int
    handle_id: int
    wait: bool
    until_ns: int  # of a wait; 0: none
    one_at_a_time: bool
    permits: int


def acquire(ctx: OpContext, workspace_id: bytes, op: LockAcquire) -> FileOutcome:
    asked = _read(ctx, op)
    if asked is None:
        return refused(EINVAL)
    target = asked.target
    if target.inode_id and ctx.overlay.get(Family.TREE, inode_key(workspace_id, InodeId(target.inode_id))) is None:
        return refused(ENOENT)
    turn = LockTurn(ctx, workspace_id)
    table = turn.table(target)
    request, own = turn.owned(asked.handle_id, target) or (None, None)
    rest = queue.without(table, own)
    if len(rest) and rest.permits != asked.permits:
        return refused(EINVAL)  # a lock where others use a semaphore, or the other way round, or another number
    rest.permits = asked.permits
    held = own is not None and own.state != QUEUED
    if own is not None and own.kind == asked.kind and table.permits == asked.permits:
        if held:
            return _granted(turn, own)
        if queue.waits(own, turn.stamp_ns):
            return _granted(turn, own) if asked.wait else _would_block(rest)
    # A conversion is not a new arrival: it asks only for what the other holders leave it.
    grants = queue.admits(rest, asked.kind) and (held or not queue.anyone_waits(rest, turn.stamp_ns))
    new = turn.own_request(asked.handle_id, target)
    if not grants:
        refusal = _may_wait(ctx, turn, asked, new, rest, own)
        if refusal is not None:
            return refusal
    if own is None and _is_full(turn, new.client_id, rest):
        return _LIMIT
    return _enter(turn, asked, new, grants, request, own)


def _enter(
    turn: LockTurn, asked: _Asked, new: Request, grants: bool, old: Request | None, own: Row | None
) -> FileOutcome:
    if old is not None and own is not None:
        turn.end(old, own, WAIT_ENDED if own.state == QUEUED else RELEASED)
    turn.table(asked.target).permits = asked.permits
    row = Row(new.lock_id, 0, asked.until_ns, asked.kind, FREE if grants else QUEUED, asked.one_at_a_time)
    turn.begin(new, row)
    turn.serve(asked.target)
    turn.commit()
    return _granted(turn, turn.row_of(new))


def _read(ctx: OpContext, op: LockAcquire) -> _Asked | None:
    target, kind, permits = read_target(op.target), int(op.kind), op.permits
    if target is None or kind not in {SHARED, EXCLUSIVE, PERMIT} or op.wait_ms > LOCK_WAIT_MS_MAX:
        return None
    if kind == PERMIT:
        if not target.name or not 1 <= permits <= LOCK_PERMITS_MAX:
            return None
    elif permits:
        return None
    until_ns = int(ctx.stamp_ns) + op.wait_ms * _NS_A_MS if op.wait_ms else 0
    return _Asked(target, kind, op.handle_id, op.wait, until_ns, op.one_at_a_time, permits)


def _may_wait(
    ctx: OpContext, turn: LockTurn, asked: _Asked, new: Request, rest: Table, own: Row | None
) -> FileOutcome | None:
    """The refusal of an acquire that can not be granted now; None if it is to be queued."""
    if not asked.wait:
        return _would_block(rest)
    if not (asked.one_at_a_time and asked.kind == EXCLUSIVE):
        return None
    waiting = graph.wait_of(ctx.overlay, turn, new.client_id, new.handle_id)
    if waiting is not None and (own is None or waiting.lock_id != own.lock_id):
        return refused(EINVAL)  # the owner said that it waits for one thing at a time, and waits for another already
    cycle = graph.find_cycle(ctx.overlay, turn, new, rest)
    if cycle:
        turn.tell_deadlock(new, asked.kind, cycle)
        return refused(EDEADLK)
    return None


def _would_block(rest: Table) -> FileOutcome:
    return _EXPIRING if queue.in_grace(rest) else refused(EWOULDBLOCK)


def _is_full(turn: LockTurn, client_id: bytes, table: Table) -> bool:
    return (
        len(table) >= LOCK_QUEUE_MAX
        or turn.count(client_id) >= LOCKS_OF_CLIENT_MAX
        or turn.count_all() >= LOCKS_OF_WORKSPACE_MAX
    )


def _granted(turn: LockTurn, row: Row) -> FileOutcome:
    return FileOutcome(stamp_ns=turn.stamp_ns, lock=LockGrant(row.state, row.lock_id, row.token))


def release(ctx: OpContext, workspace_id: bytes, op: LockRelease) -> FileOutcome:
    """Gives up a lock or a place in the queue; of its own client only, whatever the handle."""
    turn = LockTurn(ctx, workspace_id)
    found = turn.find(op.lock_id)
    if found is None or found[0].client_id != ctx.client_id:
        return _FENCED
    request, row = found
    turn.end(request, row, WAIT_ENDED if row.state == QUEUED else RELEASED)
    turn.serve(request.target)
    turn.commit()
    return _granted(turn, row._replace(state=FREE))


def reclaim(ctx: OpContext, workspace_id: bytes, op: LockReclaim) -> FileOutcome:
    """WS-43: the lock of an older client of the same worker, as a new grant. That the old one is silent is for the
    leader to know before it proposes."""
    turn = LockTurn(ctx, workspace_id)
    found = turn.find(op.lock_id)
    if found is None or not op.token or found[1].token != op.token or not _same_worker(found[0], ctx):
        return _FENCED
    old, row = found
    if old.client_id == ctx.client_id:
        return refused(EINVAL)
    request, own = turn.owned(op.handle_id, old.target) or (None, None)
    if own is not None and own.state != QUEUED:
        return refused(EINVAL)  # the owner holds it too, and has one request for a target at most
    if own is None and turn.count(ctx.client_id) >= LOCKS_OF_CLIENT_MAX:
        return _LIMIT
    if request is not None and own is not None:
        turn.end(request, own, WAIT_ENDED)
    turn.end(old, row, LOST)
    # Its new owner said nothing about how it waits, so the lock is in no graph from here on.
    taken = turn.begin(
        turn.own_request(op.handle_id, old.target), row._replace(lock_id=turn.stamp_ns, one_at_a_time=False)
    )
    turn.serve(old.target)
    turn.commit()
    return _granted(turn, taken)


def _same_worker(request: Request, ctx: OpContext) -> bool:
    """The certificate names the worker (D-19); without one the principal is all there is."""
    if request.worker:
        return request.worker == ctx.worker
    return not ctx.worker and request.principal == ctx.principal
