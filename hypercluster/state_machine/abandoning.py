"""The verdict on Abandon: a client's seqs are given up for ever (WS-4, D-7).

Owns: who may give up which seqs. What was judged keeps its stored result; what was not is answered ABANDONED from here
on, whatever its bytes, and never applied. The lane may go on above them.
An abandon travels in a lane of its own, because that of the client it speaks of waits for the very seqs it burns. It
needs the same principal and scope: a certificate's name is the worker (D-19, D-20).
Invariants: at most LANE_RESULTS_MAX seqs are burned by one command (a client has no more in flight), as one record;
the same abandon again changes nothing and is answered alike; an unknown lane may be one that was forgotten, so the
basis decides as it does for a Submit, and below the dedupe floor nothing is said of its seqs.
"""

from __future__ import annotations

from hypercluster.limits import LANE_RESULTS_MAX
from hypercluster.pb.v1.coordination_command_pb2 import Abandon
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.lanes import Lane, Lanes
from hypercluster.state_machine.outcome import (
    BAD_OP_TYPE,
    FORBIDDEN,
    LIMIT,
    OK,
    PRECONDITION_FAILED,
    UNKNOWN,
    HubOutcome,
)
from hypercluster.values import ClientId

_CLIENT_ID_BYTES = 16
_SEQ_MAX = (1 << 63) - 1


def judge_abandon(ctx: OpContext, lanes: Lanes, command: Abandon) -> HubOutcome:
    """The outcome's `version` is the last seq at or below `through_seq` that was judged, 0 if none was: what lies above
    it was given up, what lies at or below it has its own result."""
    client_id, through_seq = ClientId(command.client_id), command.through_seq
    if len(client_id) != _CLIENT_ID_BYTES or not 1 <= through_seq < _SEQ_MAX:
        return HubOutcome(BAD_OP_TYPE, 0)
    if client_id == ctx.client_id:
        return HubOutcome(PRECONDITION_FAILED, 0)
    lane = lanes.get(client_id)
    if lane is None:
        if not lanes.dedupe_floor <= command.basis < ctx.index:
            return HubOutcome(UNKNOWN, 0)
        lane = lanes.start(client_id, ctx.principal, ctx.scope, max(1, through_seq - LANE_RESULTS_MAX + 1))
    elif lane.principal != ctx.principal or lane.scope != ctx.scope:
        return HubOutcome(FORBIDDEN, 0)
    if through_seq > lane.last_seq + LANE_RESULTS_MAX:
        return HubOutcome(LIMIT, 0)
    if through_seq > lane.last_seq:
        lanes.note(lane, ctx.stamp_ns, 0)
        lanes.burn(lane, through_seq, ctx.index)
    return HubOutcome(OK, _judged_through(lane, through_seq))


def _judged_through(lane: Lane, seq: int) -> int:
    while (stored := lane.find(seq)) is not None and stored.burned:
        seq = max(stored.result.first_seq - 1, lane.horizon())  # below it nothing is known, whatever is still stored
    return seq
