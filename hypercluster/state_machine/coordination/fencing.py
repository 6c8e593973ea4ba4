"""Fencing: whether the tokens a write depends on are those of present holders (D-10, WS-42).

Owns: the verdict on `FileCommand.guards`. A shared lock or a semaphore has several holders, and GRACE counts as held.
Never: asked of a command without guards, so that one costs nothing.
Invariants: a token is good in the history it was granted in, for the target it was granted on, in this workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypercluster.limits import GUARDS_MAX
from hypercluster.pb.v1.coordination_command_pb2 import Guard
from hypercluster.state_machine.coordination import records
from hypercluster.state_machine.coordination.records import Target
from hypercluster.state_machine.coordination.targets import read_target
from hypercluster.state_machine.meta import read_cluster
from hypercluster.state_machine.outcome import FENCED, FileOutcome
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family

_FENCED: Final = FileOutcome(reason=FENCED)


def judge_guards(
    overlay: Overlay, workspace_id: bytes, guards: Sequence[Guard], concerned: bytes | None
) -> FileOutcome | None:
    """None when every guard holds. `concerned` is the inode the command is about, None if there is none."""
    if len(guards) > GUARDS_MAX:
        return _FENCED
    for guard in guards:
        if not _holds(overlay, workspace_id, guard, concerned):
            return _FENCED
    return None


def _holds(overlay: Overlay, workspace_id: bytes, guard: Guard, concerned: bytes | None) -> bool:
    if guard.history_id:
        cluster = read_cluster(overlay)
        if cluster is None or cluster[1] != guard.history_id:
            return False
    if guard.HasField("target"):
        target = read_target(guard.target)
    else:
        target = None if concerned is None else Target(concerned, "")
    record = None if target is None else overlay.get(Family.COORDINATION, records.table_key(workspace_id, target))
    return record is not None and records.holds(record, guard.token)
