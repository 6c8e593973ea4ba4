"""The verdict on LockSteps: what the leader's lease timers found, each step guarded by what it saw (WS-41, D-6).

Owns: which moves there are. HELD goes to GRACE, GRACE back to HELD (renewed) or to FREE (expired), QUEUED to FREE (its
time is over, or its client is silent). Absent from the table means refused; a step whose guard no longer holds is left
out, so that a renewal, a release or a new grant that came first always wins.
Invariants: a wait ends by its deadline only once the command's stamp has passed it. One command loads at most
LOCK_QUEUE_MAX rows (the first table whatever its size): what is left out, the leader proposes again.
"""

from __future__ import annotations

from typing import Final

from hypercluster.limits import LOCK_QUEUE_MAX, LOCK_STEPS_MAX
from hypercluster.pb.v1.coordination_command_pb2 import LockStep, LockSteps
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.records import FREE, GRACE, HELD, QUEUED, WORKSPACE_ID_BYTES, Row
from hypercluster.state_machine.coordination.turn import EXPIRING, LOST, RENEWED, WAIT_ENDED, LockTurn
from hypercluster.state_machine.outcome import BAD_OP_TYPE, OK, HubOutcome

# (from, to) -> what it is called.
MOVES: Final = {
    (HELD, GRACE): EXPIRING,
    (GRACE, HELD): RENEWED,
    (GRACE, FREE): LOST,
    (QUEUED, FREE): WAIT_ENDED,
}


def judge_steps(ctx: OpContext, command: LockSteps) -> HubOutcome:
    """The outcome's `version` counts the steps that were made."""
    if len(command.workspace_id) != WORKSPACE_ID_BYTES or len(command.steps) > LOCK_STEPS_MAX:
        return HubOutcome(BAD_OP_TYPE, 0)
    turn = LockTurn(ctx, command.workspace_id)
    made = 0
    for step in command.steps:
        request = turn.request(step.lock_id)
        if request is None:
            continue
        rows = turn.rows_loaded
        if rows and rows + turn.table_rows(request.target) > LOCK_QUEUE_MAX:
            break
        row = turn.row_of(request)
        event = MOVES.get((step.from_state, step.to_state))
        if event is None or not _guard_holds(turn, step, row):
            continue
        made += 1
        if step.to_state == FREE:
            turn.end(request, row, event)
            turn.serve(request.target)
        else:
            turn.move(request, row, step.to_state, event)
    turn.commit()
    return HubOutcome(OK, made)


def _guard_holds(turn: LockTurn, step: LockStep, row: Row) -> bool:
    if row.state != step.from_state or row.token != step.token:
        return False
    if row.state != QUEUED or not step.wait_until_ns:
        return True
    return row.when_ns == step.wait_until_ns <= turn.stamp_ns
