"""When the leader proposes that a workspace snapshot is marked or dropped and that an op log is trimmed (WS-53, WS-54).

Owns: the schedule: which workspace is due for what, as of the state and the clock; snapshots that somebody asks for.
Never: changes state but by commands that apply judges like all others; looks at all workspaces at once.
Invariants: a mark is guarded by the snapshot it saw last, so that a late one does nothing; the log is trimmed by age
and count, whichever keeps more, and not above the newest snapshot, from which a worker goes on; only a log that is over
its budget is trimmed earlier, and then that is said aloud.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from hypercluster import limits
from hypercluster.node.own_lane import OwnLane, outcomes, was_judged
from hypercluster.node.standing import Standing
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import MaintenanceCommand, TrimOplog
from hypercluster.pb.v1.retention_command_pb2 import SnapshotDrop, SnapshotMark
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.coordination.settings import stored_settings
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.oplog import (
    TRIM_KEYS_MAX,
    first_since,
    log_bytes,
    log_floor,
    scan_log,
    trim_limit,
)
from hypercluster.state_machine.workspace.records import Header
from hypercluster.state_machine.workspace.snapshots import list_snapshots, newest_snapshot
from hypercluster.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
WORKSPACES_A_LOOK: Final = 8
ROUND_S: Final = 2.0  # between two rounds over all workspaces
DROPS_A_LOOK: Final = 16
TRIM_STEP_OPS: Final = 1_000  # a log is trimmed when it can be trimmed by so much, or by all that is over
TRIM_BYTES_MAX: Final = 4 * limits.MIB  # of the log by one command, or its first record
BUDGET_TOLD_S: Final = 600.0
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """Of one workspace. `oplog_bytes_max` is its log's budget; the two `oplog_keep` bounds hold together."""

    snapshot_every_s: int = limits.SNAPSHOT_EVERY_S
    snapshots_kept: int = limits.SNAPSHOTS_KEPT
    oplog_keep_s: int = limits.OPLOG_KEEP_S
    oplog_keep_ops: int = limits.OPLOG_KEEP_OPS
    oplog_bytes_max: int = limits.OPLOG_BYTES_MAX


def settings_of_workspaces(reader: Reader, base: RetentionSettings) -> Callable[[bytes], RetentionSettings]:
    """What a workspace is set to in the log goes before the node's configuration; `snapshot_every_s` 0 is none."""

    def found(workspace_id: bytes) -> RetentionSettings:
        stored = stored_settings(reader, workspace_id)
        every_s, kept = stored.snapshot_every_s, min(stored.snapshots_kept, limits.SNAPSHOTS_MAX - 1)
        if every_s == limits.SNAPSHOT_EVERY_S:
            every_s = base.snapshot_every_s
        if kept == limits.SNAPSHOTS_KEPT:
            kept = base.snapshots_kept
        return replace(base, snapshot_every_s=every_s, snapshots_kept=kept)

    return found


class Retention:
    """`look` is called now and then by the lifecycle. `settings_of` answers what holds for a workspace."""

    def __init__(
        self,
        lane: OwnLane,
        standing: Standing,
        reader: Reader,
        clock: Clock,
        metrics: Metrics,
        settings_of: Callable[[bytes], RetentionSettings],
    ) -> None:
        self._lane = lane
        self._standing = standing
        self._reader = reader
        self._clock = clock
        self._metrics = metrics
        self._settings_of = settings_of
        self._after = b""  # place of the workspace looked at last
        self._due_s = 0.0
        self._told_s: dict[bytes, float] = {}  # when it was said that a workspace is over its budget
        self._again: deque[bytes] = deque()  # workspaces with more to do

    def look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._due_s or not self._standing.leads() or not self._lane.idle:
            return
        self._due_s = now_s + LOOK_S
        commands: list[MaintenanceCommand] = []
        for workspace_id in self._next_workspaces():
            commands += self.due(workspace_id)
        if commands:
            self._lane.propose(commands[: limits.SUBMIT_COMMANDS_MAX], self._answered)

    def _next_workspaces(self) -> list[bytes]:
        """Those that have more to do, otherwise the next few of a round over all."""
        if self._again:
            found = list(dict.fromkeys(self._again))[:WORKSPACES_A_LOOK]
            self._again.clear()
            return found
        pairs = list(islice(queries.scan_workspaces(self._reader, self._after), WORKSPACES_A_LOOK))
        self._after = pairs[-1][0] if len(pairs) == WORKSPACES_A_LOOK else b""
        if not self._after:
            self._due_s += ROUND_S
        return [workspace_id for _, workspace_id in pairs]

    def _answered(self, verdicts: Sequence[Verdict]) -> None:
        if was_judged(verdicts):
            self._due_s = min(self._due_s, self._clock.monotonic())

    # -- what is due --------------------------------------------------------------------------------

    def due(self, workspace_id: bytes) -> list[MaintenanceCommand]:
        """As of the present state; proposing it twice does no harm."""
        header = queries.read_header(self._reader, workspace_id)
        if header is None:
            return []
        settings = self._settings_of(workspace_id)
        return [
            *self._mark_due(header, settings),
            *self._drops_due(header, settings),
            *self._trim_due(header, settings),
        ]

    def _mark_due(self, header: Header, settings: RetentionSettings) -> list[MaintenanceCommand]:
        newest = newest_snapshot(self._reader, header.workspace_id)
        last, stamp_ns = (newest.log_index, newest.stamp_ns) if newest is not None else (0, 0)
        every_ns = settings.snapshot_every_s * _NS
        if not every_ns or header.log_index <= last or self._clock.wall_ns() - stamp_ns < every_ns:
            return []
        return [mark_command(header.workspace_id, last)]

    def _drops_due(self, header: Header, settings: RetentionSettings) -> list[MaintenanceCommand]:
        kept = [found.log_index for found in list_snapshots(self._reader, header.workspace_id)]
        over = kept[: max(0, len(kept) - settings.snapshots_kept)]
        if len(over) > DROPS_A_LOOK:
            self._again.append(header.workspace_id)
        return [
            MaintenanceCommand(snapshot_drop=SnapshotDrop(workspace_id=header.workspace_id, log_index=log_index))
            for log_index in over[:DROPS_A_LOOK]
        ]

    def _trim_due(self, header: Header, settings: RetentionSettings) -> list[MaintenanceCommand]:
        floor = log_floor(self._reader, header.workspace_id)
        if floor is None:
            return []
        below = max(self._below_by_age(header, settings, floor), self._below_by_budget(header, settings, floor))
        below = min(below, trim_limit(header.log_index))
        # A record goes once the one after it begins at the bound or below.
        second = list(islice(scan_log(self._reader, header.workspace_id, floor), 2))[1:]
        if not second or second[0].first_index > below:
            return []
        below = max(second[0].first_index, min(below, floor + self._ops_a_trim(header, floor)))
        self._again.append(header.workspace_id)
        return [MaintenanceCommand(trim_oplog=TrimOplog(workspace_id=header.workspace_id, below_log_index=below))]

    def _ops_a_trim(self, header: Header, floor: int) -> int:
        """How many operations take TRIM_BYTES_MAX, as they are on average: apply reads what it removes, on every node,
        and each writes it into its archive."""
        span = header.log_index - floor + 1
        return max(1, span * TRIM_BYTES_MAX // max(1, log_bytes(self._reader, header.workspace_id)))

    def _below_by_age(self, header: Header, settings: RetentionSettings, floor: int) -> int:
        """What is older than both bounds may go, below the newest snapshot."""
        by_count = header.log_index - settings.oplog_keep_ops + 1
        if by_count <= floor:
            return 0
        kept_from_ns = self._clock.wall_ns() - settings.oplog_keep_s * _NS
        by_age = first_since(self._reader, header.workspace_id, kept_from_ns, header.log_index)
        below = min(by_count, by_age)
        if settings.snapshot_every_s:
            newest = newest_snapshot(self._reader, header.workspace_id)
            below = min(below, newest.log_index + 1 if newest is not None else 0)
        enough = below - floor >= min(TRIM_STEP_OPS, max(1, settings.oplog_keep_ops // 10))
        return below if enough else 0

    def _below_by_budget(self, header: Header, settings: RetentionSettings, floor: int) -> int:
        """The oldest records go early when the log is over its budget: as many as one command removes."""
        size_bytes = log_bytes(self._reader, header.workspace_id)
        if size_bytes <= settings.oplog_bytes_max:
            return 0
        self._metrics.oplog_early_trims.inc()
        now_s = self._clock.monotonic()
        if now_s >= self._told_s.get(header.workspace_id, 0.0):
            self._told_s[header.workspace_id] = now_s + BUDGET_TOLD_S
            fields = {"workspace": header.workspace_id.hex(), "bytes": size_bytes, "budget": settings.oplog_bytes_max}
            log.error("an op log is over its budget: its oldest part goes early", extra={"fields": fields})
        span = header.log_index - floor + 1
        over = 1 - settings.oplog_bytes_max / size_bytes
        return floor + max(1, min(TRIM_KEYS_MAX, int(span * over)))

    # -- what somebody asks for -----------------------------------------------------------------------

    def take(self, workspace_id: bytes, done: Callable[[int, int], None]) -> None:
        """Marks a snapshot now. `done(reason, log_index)`: reason -1 if it was not judged. Raises QueueFullError."""
        newest = newest_snapshot(self._reader, workspace_id)

        def answered(verdicts: Sequence[Verdict]) -> None:
            if was_judged(verdicts):
                done(*outcomes(verdicts)[0])
            else:
                done(-1, 0)

        last = newest.log_index if newest is not None else 0
        self._lane.propose([mark_command(workspace_id, last)], answered)


def mark_command(workspace_id: bytes, after_log_index: int) -> MaintenanceCommand:
    return MaintenanceCommand(snapshot_mark=SnapshotMark(workspace_id=workspace_id, after_log_index=after_log_index))
