"""When the leader proposes that orphans are removed (WS-27).

Owns: the round over all workspaces, and its pace.
Never: judges: apply looks again whether an orphan is due, and leaves out what a worker has opened meanwhile.
Invariants: a command a workspace and look, and one message on its way at most: removing is slower than anything that
has a user waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from hypercluster.limits import ORPHANS_A_LOOK
from hypercluster.node.own_lane import OwnLane, outcomes, was_judged
from hypercluster.node.standing import Standing
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import Reap
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.queries import scan_workspaces
from hypercluster.state_machine.workspace.reaping import due_orphans
from hypercluster.telemetry.metrics import Metrics

LOOK_S: Final = 0.5
WORKSPACES_A_LOOK: Final = 16
ROUND_S: Final = 2.0  # between two rounds over all workspaces


class Reaping:
    """`look` is called now and then by the lifecycle."""

    def __init__(self, reader: Reader, standing: Standing, lane: OwnLane, clock: Clock, metrics: Metrics) -> None:
        self._reader = reader
        self._standing = standing
        self._lane = lane
        self._clock = clock
        self._metrics = metrics
        self._after = b""  # place of the workspace looked at last
        self._behind: dict[bytes, bytes] = {}  # where so many orphans are held open that one look does not pass them
        self._first: dict[bytes, bytes] = {}  # where the oldest orphan of a workspace stood when it was last looked for
        self._due_s = 0.0

    def look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._due_s or not self._standing.leads() or not self._lane.idle:
            return
        self._due_s = now_s + LOOK_S
        pairs = list(islice(scan_workspaces(self._reader, self._after), WORKSPACES_A_LOOK))
        self._after = pairs[-1][0] if len(pairs) == WORKSPACES_A_LOOK else b""
        if not self._after:
            self._due_s += ROUND_S
        commands = [made for _, workspace_id in pairs if (made := self.due(workspace_id)) is not None]
        if commands:
            self._lane.propose(commands, self._answered)

    def due(self, workspace_id: bytes) -> MaintenanceCommand | None:
        after = self._behind.pop(workspace_id, b"")
        found = due_orphans(
            self._reader,
            workspace_id,
            self._clock.wall_ns(),
            after,
            looked_at_max=ORPHANS_A_LOOK,
            begin=self._first.get(workspace_id, b""),
        )
        if not after:
            self._first[workspace_id] = found.first
        place = after if found.inode_ids else found.after
        if place:
            self._behind[workspace_id] = place  # on from there; from the oldest again once the end was reached
        if not found.inode_ids and not found.pages:
            return None
        return MaintenanceCommand(reap=Reap(workspace_id=workspace_id, inode_ids=found.inode_ids))

    def _answered(self, verdicts: Sequence[Verdict]) -> None:
        if was_judged(verdicts):
            removed = sum(version for _, version in outcomes(verdicts))
            self._metrics.reaped.inc(removed)
            if removed:
                self._due_s = min(self._due_s, self._clock.monotonic() + LOOK_S)  # there may be more
