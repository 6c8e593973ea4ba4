"""Open leases on the leader: what workers say they hold open, against what is logged (WS-44, D-6).

Owns: the last report of each mount or process of a worker, when it ends, the view of what is logged, and the proposals
that bring the two together, in batches.
Never: keeps content or ends it (apply does, by the logged leases), or counts time that another leader counted.
Invariants: a lease ends by a logged command once nobody who reported it holds it any more, or has been silent for
OPEN_LEASE_TTL_MS, and not before; a new leader begins with a full TTL for all that is logged, whoever speaks earlier,
and proposes nothing before it has read it. One message is on its way at most, and one a second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from hypercluster.errors import QueueFullError
from hypercluster.limits import LEASES_A_TURN, OPEN_LEASE_TTL_MS, OPEN_LEASES_A_COMMAND_MAX, OPENS_INSTANCES_MAX
from hypercluster.node.own_lane import OwnLane
from hypercluster.node.standing import Standing
from hypercluster.node.tenure import Tenure
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import OpenLease, OpenLeaseChanges
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.coordination import leases
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.queries import read_inode, scan_workspaces
from hypercluster.telemetry.metrics import Metrics

TTL_S: Final = OPEN_LEASE_TTL_MS / 1000
BATCH_S: Final = 1.0
CHANGES_A_MESSAGE: Final = 10 * OPEN_LEASES_A_COMMAND_MAX
WORKSPACES_A_MESSAGE: Final = 64  # each takes a command of its own, at least
WORKSPACES_A_TURN: Final = 512

_Key = tuple[bytes, str]  # workspace, worker


@dataclass(slots=True)
class _Report:
    """All that one mount or process holds open, as it said last."""

    due_s: float
    inode_ids: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class _Opens:
    """Of one worker in one workspace."""

    reports: dict[bytes | None, _Report] = field(default_factory=dict)  # None: what was logged before this leader
    logged: set[bytes] = field(default_factory=set)

    def wanted(self) -> set[bytes]:
        return set().union(*(report.inode_ids for report in self.reports.values()))


@dataclass(frozen=True, slots=True)
class _Change:
    key: _Key
    inode_id: bytes
    opened: bool


class OpenLeases:
    """One a node; `look` is called now and then."""

    def __init__(self, reader: Reader, standing: Standing, lane: OwnLane, clock: Clock, metrics: Metrics) -> None:
        self._reader = reader
        self._lane = lane
        self._clock = clock
        self._metrics = metrics
        self._tenure = Tenure(standing)
        self._workers: dict[_Key, _Opens] = {}
        self._changed: dict[_Key, None] = {}  # those whose report and log may differ
        self._loading: Iterator[None] | None = None
        self._next_s = 0.0

    def report(self, workspace_id: bytes, worker: str, instance: bytes, inode_ids: Collection[bytes]) -> None:
        """All that this mount or process of the worker holds open now. Only a leader's answer may follow from it.
        Raises QueueFullError."""
        self._sync()
        key = (workspace_id, worker)
        opens = self._workers.setdefault(key, _Opens())
        self._changed[key] = None
        if not inode_ids:
            opens.reports.pop(instance, None)
            return
        if instance not in opens.reports and len(opens.reports) >= OPENS_INSTANCES_MAX:
            raise QueueFullError(f"{worker} reports for {len(opens.reports)} mounts, limit OPENS_INSTANCES_MAX")
        opens.reports[instance] = _Report(self._clock.monotonic() + TTL_S, set(inode_ids))

    # -- leadership ---------------------------------------------------------------------------------

    def _sync(self) -> None:
        if not self._tenure.changed():
            return
        self._workers.clear()
        self._changed.clear()
        self._loading = self._load() if self._tenure.term else None

    def _load(self) -> Iterator[None]:
        """What is logged, in turns of a bounded size. Nobody else changes it: what others had proposed is applied."""
        now_s = self._clock.monotonic()
        for number, (_, workspace_id) in enumerate(scan_workspaces(self._reader), 1):
            after: leases.OpenLease | None = None
            while True:
                page = leases.list_leases(self._reader, workspace_id, after, LEASES_A_TURN)
                for lease in page:
                    self._take_in((workspace_id, lease.worker), lease.inode_id, now_s)
                if len(page) < LEASES_A_TURN:
                    break
                after = page[-1]
                yield
            if number % WORKSPACES_A_TURN == 0:
                yield

    def _take_in(self, key: _Key, inode_id: bytes, now_s: float) -> None:
        opens = self._workers.setdefault(key, _Opens())
        opens.logged.add(inode_id)
        opens.reports.setdefault(None, _Report(now_s + TTL_S)).inode_ids.add(inode_id)

    # -- proposals ----------------------------------------------------------------------------------

    def look(self) -> None:
        self._sync()
        self._metrics.open_leases.set(sum(len(opens.logged) for opens in self._workers.values()))
        if self._loading is not None:
            if not self._tenure.has_applied() or next(self._loading, self) is None:
                return  # a turn's work was done, and there is more
            self._loading = None
        now_s = self._clock.monotonic()
        if not self._tenure.term or now_s < self._next_s or not self._lane.idle:
            return
        self._next_s = now_s + BATCH_S
        self._end_silent(now_s)
        changes = self._due()
        if changes:
            self._propose(changes)

    def _end_silent(self, now_s: float) -> None:
        for key, opens in list(self._workers.items()):
            silent = [instance for instance, report in opens.reports.items() if report.due_s <= now_s]
            for instance in silent:
                del opens.reports[instance]
                self._changed[key] = None
            if not opens.reports and not opens.logged:
                del self._workers[key]

    def _due(self) -> list[_Change]:
        """What one message can take, ends first: they make room. The rest is looked at again."""
        found: list[_Change] = []
        workspaces: set[bytes] = set()
        for key in list(self._changed):
            opens = self._workers.get(key)
            if opens is not None:
                wanted = opens.wanted()
                ended = sorted(opens.logged - wanted)
                opened = [inode_id for inode_id in sorted(wanted - opens.logged) if self._is_there(key, inode_id)]
                found += [_Change(key, inode_id, opened=False) for inode_id in ended]
                found += [_Change(key, inode_id, opened=True) for inode_id in opened]
                workspaces.add(key[0])
            if len(found) > CHANGES_A_MESSAGE or len(workspaces) == WORKSPACES_A_MESSAGE:
                break
            del self._changed[key]
        return found[:CHANGES_A_MESSAGE]

    def _is_there(self, key: _Key, inode_id: bytes) -> bool:
        return read_inode(self._reader, key[0], inode_id) is not None

    def _propose(self, changes: Sequence[_Change]) -> None:
        term = self._tenure.term

        def answered(_: Sequence[Verdict]) -> None:
            if term == self._tenure.term:
                for change in changes:
                    self._settle(change)

        self._lane.propose(commands_of(changes), answered)

    def _settle(self, change: _Change) -> None:
        """As the state has it now: what apply left out is tried again when the worker says it again."""
        opens = self._workers.get(change.key)
        if opens is None:
            return
        workspace_id, worker = change.key
        if any(lease.worker == worker for lease in leases.leases_on(self._reader, workspace_id, change.inode_id)):
            opens.logged.add(change.inode_id)
        else:
            opens.logged.discard(change.inode_id)
        if not change.opened and change.inode_id in opens.logged:
            self._changed[change.key] = None


def commands_of(changes: Sequence[_Change]) -> list[MaintenanceCommand]:
    """At most OPEN_LEASES_A_COMMAND_MAX changes each, in their order."""
    by_workspace: dict[bytes, list[_Change]] = {}
    for change in changes:
        by_workspace.setdefault(change.key[0], []).append(change)
    commands: list[MaintenanceCommand] = []
    for workspace_id, found in by_workspace.items():
        for start in range(0, len(found), OPEN_LEASES_A_COMMAND_MAX):
            piece = found[start : start + OPEN_LEASES_A_COMMAND_MAX]
            made = OpenLeaseChanges(workspace_id=workspace_id)
            for change in piece:
                part = made.opened if change.opened else made.ended
                part.append(OpenLease(inode_id=change.inode_id, worker=change.key[1]))
            commands.append(MaintenanceCommand(open_lease_changes=made))
    return commands
