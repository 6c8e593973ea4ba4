"""The verdict on a coordination command.

Owns: `judge_coordination`: which workspace, and which judge.
Invariants: none of these commands takes a log_index or touches a root (D-2); a refusal is a value and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypercluster.pb.v1.coordination_command_pb2 import CoordinationCommand
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination import claiming, locks
from hypercluster.state_machine.outcome import BAD_OP_TYPE, NO_WORKSPACE, FileOutcome
from hypercluster.state_machine.workspace import find_workspace

# What a command does, by its name in the oneof: it is given the workspace's id and its own message.
_JUDGES: Final[dict[str, Callable[[OpContext, bytes, Any], FileOutcome]]] = {
    "lock_acquire": locks.acquire,
    "lock_release": locks.release,
    "lock_reclaim": locks.reclaim,
    "reserve": claiming.reserve,
    "unreserve": claiming.unreserve,
    "workspace_set": claiming.workspace_set,
}

_NO_WORKSPACE: Final = FileOutcome(reason=NO_WORKSPACE)
_BAD_OPERATION: Final = FileOutcome(reason=BAD_OP_TYPE)


def judge_coordination(ctx: OpContext, command: CoordinationCommand) -> FileOutcome:
    workspace = find_workspace(ctx)
    if workspace is None:
        return _NO_WORKSPACE
    kind = command.WhichOneof("kind")
    judge = None if kind is None else _JUDGES.get(kind)
    if kind is None or judge is None:
        return _BAD_OPERATION
    return judge(ctx, workspace.header.workspace_id, getattr(command, kind))
