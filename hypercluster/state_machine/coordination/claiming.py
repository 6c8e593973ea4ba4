"""The verdicts on Reserve, Unreserve and WorkspaceSet (WS-29, WS-45, WS-56).

Owns: who may renew and end a reservation, how many there are, and the ranges of settings; `read_settings`, which puts
a workspace's settings and quotas together.
Never: a log_index or a root (D-2). Deadlines are judged against the command's stamp (D-6).
Invariants: a refusal changes nothing; a reservation that is over is gone for everybody, its owner included (FENCED);
records that are over are removed by the next one that is made, so a workspace has RESERVATIONS_MAX at most.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypercluster.limits import (
    LOCAL_PATTERNS_BYTES_MAX,
    RESERVATION_TTL_MS,
    RESERVATIONS_MAX,
    SNAPSHOT_EVERY_S_MAX,
    SNAPSHOTS_MAX,
)
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.patterns import pattern_fault
from hypercluster.state_machine.coordination.reservations import Owner, Reservation
from hypercluster.state_machine.coordination.settings import WorkspaceSettings, settings_key, stored_settings
from hypercluster.state_machine.outcome import FENCED, LIMIT, NO_WORKSPACE, FileOutcome, LockGrant
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.claims import command_owner, open_claims
from hypercluster.state_machine.workspace.errnos import EINVAL, EPERM, refused
from hypercluster.state_machine.workspace.queries import read_header
from hypercluster.state_machine.workspace.state import open_workspace

_HELD: Final = int(pb.LOCK_STATE_HELD)
_FREE: Final = int(pb.LOCK_STATE_FREE)
_MS: Final = 1_000_000

_GONE: Final = FileOutcome(reason=FENCED)
_TOO_MANY: Final = FileOutcome(reason=LIMIT)
_NO_WORKSPACE: Final = FileOutcome(reason=NO_WORKSPACE)


def reserve(ctx: OpContext, workspace_id: bytes, op: pb.Reserve) -> FileOutcome:
    """Makes a reservation, or renews one: its deadline counts from this command's stamp."""
    workspace = open_workspace(ctx.overlay, workspace_id)
    if workspace is None:
        return _NO_WORKSPACE
    if not RESERVATION_TTL_MS[0] <= op.ttl_ms <= RESERVATION_TTL_MS[1]:
        return refused(EINVAL)
    claims, stamp_ns = open_claims(ctx.overlay, workspace), int(ctx.stamp_ns)
    owner, expires_ns = command_owner(ctx), stamp_ns + op.ttl_ms * _MS
    if op.reservation_id:
        found = claims.reservations.get(op.reservation_id)
        refusal = _not_his(found, owner, stamp_ns)
        if found is None or refusal is not None:
            return refusal or _GONE
        if op.pattern and (op.pattern, op.exclusive) != (found.pattern, found.exclusive):
            return refused(EINVAL)
        claims.put(ctx.overlay, found._replace(expires_ns=expires_ns, client_id=bytes(ctx.client_id)))
        return _answer(ctx, _HELD, found.reservation_id)
    if pattern_fault(op.pattern):
        return refused(EINVAL)
    over = [key for key, found in claims.reservations.items() if found.expires_ns <= stamp_ns]
    if len(claims.reservations) - len(over) >= RESERVATIONS_MAX:
        return _TOO_MANY
    for key in over:
        claims.remove(ctx.overlay, key)
    made = Reservation(
        stamp_ns, op.pattern, op.exclusive, expires_ns, ctx.principal, ctx.worker, owner.agent, bytes(ctx.client_id)
    )
    claims.put(ctx.overlay, made)
    return _answer(ctx, _HELD, stamp_ns)


def unreserve(ctx: OpContext, workspace_id: bytes, op: pb.Unreserve) -> FileOutcome:
    workspace = open_workspace(ctx.overlay, workspace_id)
    if workspace is None:
        return _NO_WORKSPACE
    claims = open_claims(ctx.overlay, workspace)
    refusal = _not_his(claims.reservations.get(op.reservation_id), command_owner(ctx), int(ctx.stamp_ns))
    if refusal is not None:
        return refusal
    claims.remove(ctx.overlay, op.reservation_id)
    return _answer(ctx, _FREE, op.reservation_id)


def _not_his(found: Reservation | None, owner: Owner, stamp_ns: int) -> FileOutcome | None:
    """Why the owner may not touch the reservation."""
    if found is None or found.expires_ns <= stamp_ns:
        return _GONE
    return None if found.owner == owner else refused(EPERM)


def _answer(ctx: OpContext, state: int, reservation_id: int) -> FileOutcome:
    return FileOutcome(stamp_ns=ctx.stamp_ns, lock=LockGrant(state, reservation_id))


def workspace_set(ctx: OpContext, workspace_id: bytes, op: pb.WorkspaceSet) -> FileOutcome:
    """A field that is absent stays as it is."""
    workspace = open_workspace(ctx.overlay, workspace_id)
    if workspace is None:
        return _NO_WORKSPACE
    if len(op.local_patterns) > LOCAL_PATTERNS_BYTES_MAX:
        return _TOO_MANY
    if op.snapshot_every_s > SNAPSHOT_EVERY_S_MAX or op.snapshots_kept > SNAPSHOTS_MAX:
        return refused(EINVAL)
    before = stored_settings(ctx.overlay, workspace_id)
    given = {
        name: getattr(op, name)
        for name in ("local_patterns", "enforce_reservations", "snapshot_every_s", "snapshots_kept")
        if op.HasField(name)
    }
    after = replace(before, **given)
    if after != before:
        ctx.overlay.put(Family.COORDINATION, settings_key(workspace_id), after.encode())
        open_claims(ctx.overlay, workspace).enforced = after.enforce_reservations
    header = workspace.header
    if op.HasField("quota_bytes"):
        header.quota_bytes, workspace.changed = op.quota_bytes, True
    if op.HasField("quota_nodes"):
        header.quota_nodes, workspace.changed = op.quota_nodes, True
    return FileOutcome(stamp_ns=ctx.stamp_ns)


def read_settings(reader: Reader, workspace_id: bytes) -> WorkspaceSettings | None:
    """All that a workspace is set to, quotas included; None if there is no such workspace."""
    header = read_header(reader, workspace_id)
    if header is None:
        return None
    found = stored_settings(reader, workspace_id)
    return replace(found, quota_bytes=header.quota_bytes, quota_nodes=header.quota_nodes)
