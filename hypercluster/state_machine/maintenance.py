"""Commands that keep state small: the leader proposes them, apply judges them like all others.

Owns: the verdicts on ForgetLane (D-7), RaiseVersionsFloor (D-18) and TrimOplog, and the way to those on snapshots, the
collection of chunks (workspace/retention.py) and leases (coordination/).
Invariants: each touches at most 1 000 keys and can be proposed again until nothing is left (D-4); none of them does
anything whose guard no longer holds. The outcome's `version` counts what was removed; 0 means there is no more.
"""

from __future__ import annotations

from hypercluster.pb.v1.command_pb2 import MaintenanceCommand, TrimOplog
from hypercluster.state_machine import versions
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.steps import judge_steps
from hypercluster.state_machine.lanes import Lanes
from hypercluster.state_machine.outcome import BAD_OP_TYPE, OK, PRECONDITION_FAILED, HubOutcome, TrimmedLog
from hypercluster.state_machine.workspace import (
    collect_chunks,
    drop_snapshot,
    judge_open_leases,
    judge_reap,
    mark_snapshot,
    trim_log,
)
from hypercluster.state_machine.workspace.oplog import log_floor
from hypercluster.values import ClientId, Index


def judge_maintenance(ctx: OpContext, lanes: Lanes, command: MaintenanceCommand) -> HubOutcome:
    match command.WhichOneof("kind"):
        case "forget_lane":
            return _forget_lane(ctx, lanes, ClientId(command.forget_lane.client_id), command.forget_lane.last_seq)
        case "raise_versions_floor":
            # A floor at or above this entry would hide what it writes; the clamp makes any number harmless.
            target = Index(min(command.raise_versions_floor.floor_index, ctx.index - 1))
            return HubOutcome(OK, versions.raise_floor(ctx.overlay, target))
        case "trim_oplog":
            return HubOutcome(OK, _trim_oplog(ctx, command.trim_oplog))
        case "open_lease_changes":
            return judge_open_leases(ctx, command.open_lease_changes)
        case "reap":
            return judge_reap(ctx, command.reap)
        case "snapshot_mark":
            return mark_snapshot(ctx, command.snapshot_mark)
        case "snapshot_drop":
            return drop_snapshot(ctx, command.snapshot_drop)
        case "chunk_collect":
            return collect_chunks(ctx, command.chunk_collect)
        case "lock_steps":
            return judge_steps(ctx, command.lock_steps)
        case _:
            return HubOutcome(BAD_OP_TYPE, 0)


def _trim_oplog(ctx: OpContext, trim: TrimOplog) -> int:
    first = log_floor(ctx.overlay, trim.workspace_id)
    count = trim_log(ctx.overlay, trim.workspace_id, trim.below_log_index)
    if count and first is not None:
        ctx.effects.trimmed.append(TrimmedLog(trim.workspace_id, first, count))
    return count


def _forget_lane(ctx: OpContext, lanes: Lanes, client_id: ClientId, last_seq: int) -> HubOutcome:
    if client_id == ctx.client_id:  # a lane can not end in the middle of its own command
        return HubOutcome(PRECONDITION_FAILED, 0)
    expected, gone = lanes.forget(client_id, last_seq)
    if not expected:
        return HubOutcome(PRECONDITION_FAILED, 0)
    return HubOutcome(OK, 0 if gone else 1)
