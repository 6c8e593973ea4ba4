"""What the leader proposes by itself, and what every node watches: silent lanes, old versions, room on the disk.

Owns: how often and how much of this upkeep is proposed, and the low-water mark of the disk.
Never: changes state but by commands that apply judges like all others; more than one upkeep message in flight.
Invariants: each command is guarded by the value it saw (a lane's last seq), so a late one does nothing; a node short
of room refuses writes before its log or state could fail, hands leadership over, and comes back by itself (CL-4).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypercluster import limits
from hypercluster.node.own_lane import OwnLane, was_judged
from hypercluster.node.proposer import Proposer
from hypercluster.node.standing import Standing
from hypercluster.node.versions_budget import VersionsBudget, VersionsSize
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import ForgetLane, MaintenanceCommand, RaiseVersionsFloor
from hypercluster.raft.engine import Clock, Engine, ProposalOutcome
from hypercluster.state_machine import queries
from hypercluster.state_machine.store import Reader
from hypercluster.values import Nanos, Role

log = logging.getLogger(__name__)

UPKEEP_EVERY_S = 10.0
# In one message, and a message in each look while there is more: hundreds of processes may begin a lane a second.
LANES_A_ROUND = 192
FLOOR_COMMANDS_A_ROUND = 8  # each removes a thousand records: more than the busiest cluster replaces
BUDGET_TOLD_S = 600.0
# However many lanes there are: a lane with commands on their way must not be forgotten. Its next command to arrive
# would begin it anew, over a gap, when its client has counted on never being judged without the one before.
LANE_QUIET_S = 120
VERSIONS_STEP_ENTRIES = 10_000  # the floor moves when it can move this far
DISK_LOOK_S = 1.0
DISK_BACK_FACTOR = 2  # room must be twice the mark before writes come back
HANDOVER_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    versions_keep_entries: int = limits.VERSIONS_KEEP_ENTRIES
    versions_bytes_max: int = limits.VERSIONS_BYTES_MAX
    lane_silent_s: int = limits.LANE_SILENT_FORGET_S
    lanes_max: int = limits.LANES_MAX
    disk_low_bytes: int = limits.DISK_LOW_BYTES


class Maintenance:
    """`look` is called by the lifecycle now and then; it decides itself what is due."""

    def __init__(
        self,
        engine: Engine,
        proposer: Proposer,
        standing: Standing,
        reader: Reader,
        clock: Clock,
        free_bytes: Callable[[], int],
        settings: MaintenanceSettings,
        *,
        versions_size: Callable[[], VersionsSize] = lambda: VersionsSize(0, 0),
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._engine = engine
        self._standing = standing
        self._reader = reader
        self._clock = clock
        self._free_bytes = free_bytes
        self._settings = settings
        self._versions_size = versions_size
        self._budget = VersionsBudget(settings.versions_bytes_max)
        self._budget_due_s = 0.0
        self._told_s = 0.0
        self._lane = OwnLane(proposer, standing, random_bytes=random_bytes)
        self._upkeep_due_s = 0.0
        self._disk_due_s = 0.0
        self._handover_due_s = 0.0

    def look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s >= self._disk_due_s:
            self._disk_due_s = now_s + DISK_LOOK_S
            self._watch_disk(now_s)
        if now_s >= self._budget_due_s:
            self._budget_due_s = now_s + UPKEEP_EVERY_S
            self._budget.note(self._standing.status_now().applied_index, self._versions_size())
        leads = self._standing.status().role is Role.LEADER
        if leads and now_s >= self._upkeep_due_s and self._lane.idle:
            self._upkeep_due_s = now_s + UPKEEP_EVERY_S
            commands = self.due()
            if commands:
                self._lane.propose(commands, self._answered)

    # -- room -------------------------------------------------------------------------------------

    def _watch_disk(self, now_s: float) -> None:
        free_bytes, mark = self._free_bytes(), self._settings.disk_low_bytes
        standing = self._standing
        if standing.disk_low and free_bytes >= DISK_BACK_FACTOR * mark:
            standing.disk_low = False
            log.warning("there is room on the disk again", extra={"fields": {"free_bytes": free_bytes}})
        elif not standing.disk_low and free_bytes < mark:
            standing.disk_low = True
            log.error(
                "the disk is nearly full: writes are refused",
                extra={"fields": {"free_bytes": free_bytes, "mark": mark}},
            )
        if standing.disk_low and standing.status().role is Role.LEADER and now_s >= self._handover_due_s:
            self._handover_due_s = now_s + HANDOVER_PAUSE_S
            self._engine.transfer_leadership(None, _noted)

    # -- upkeep -----------------------------------------------------------------------------------

    def due(self) -> list[MaintenanceCommand]:
        """Both kinds: where lanes come and go without end, versions must go all the same."""
        return [*self._versions_due(), *self._lanes_due()]

    def _lanes_due(self) -> list[MaintenanceCommand]:
        settings = self._settings
        before_ns = self._clock.wall_ns() - settings.lane_silent_s * 1_000_000_000
        silent = queries.oldest_lanes(self._reader, Nanos(before_ns), LANES_A_ROUND)
        too_many = queries.lane_count(self._reader) - settings.lanes_max
        if not silent and too_many > 0:
            quiet_ns = self._clock.wall_ns() - LANE_QUIET_S * 1_000_000_000
            silent = queries.oldest_lanes(self._reader, Nanos(quiet_ns), min(too_many, LANES_A_ROUND))
        return [
            MaintenanceCommand(forget_lane=ForgetLane(client_id=client_id, last_seq=last_seq))
            for client_id, last_seq in silent
        ]

    def _versions_due(self) -> list[MaintenanceCommand]:
        """A command removes a bounded number of records, so where some are left below the floor it is named again."""
        floor = queries.versions_floor(self._reader)
        wanted = self._standing.status().applied_index - self._settings.versions_keep_entries
        if wanted < floor + VERSIONS_STEP_ENTRIES:
            wanted = floor
        within = self._budget.floor(wanted)
        if within > wanted:
            self._tell_over_budget(floor, within)
            wanted = within
        if wanted == floor and not queries.versions_backlog(self._reader):
            return []
        command = MaintenanceCommand(raise_versions_floor=RaiseVersionsFloor(floor_index=wanted))
        return [command] * FLOOR_COMMANDS_A_ROUND

    def _tell_over_budget(self, floor: int, wanted: int) -> None:
        now_s = self._clock.monotonic()
        if now_s >= self._told_s:
            self._told_s = now_s + BUDGET_TOLD_S
            fields = {"floor": floor, "to": wanted, "budget": self._settings.versions_bytes_max}
            log.warning("old versions are over their budget: the oldest go early", extra={"fields": fields})

    def _answered(self, verdicts: Sequence[Verdict]) -> None:
        if was_judged(verdicts):
            self._upkeep_due_s = 0.0  # there may be more


def _noted(_: ProposalOutcome | None) -> None:
    """Whoever leads then refuses or takes writes by its own disk."""
