"""Files that simulated clients hold open after their last name is gone, and what becomes of them (WS-27, WS-44).

Owns: `OpenFiles`, what one client opens, says in its renewals, and closes; `OpenRules`, what must hold of it;
`short_keep`, under which orphans are kept as many times shorter as leases are.
Never: the reports themselves (sim_leases.py) or what they lead to.
Invariants: a lease that was logged does not end, and its orphan stays, while a worker counts on it: for a TTL from when
it sent the report that was answered. Who has closed counts on nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from hypercluster.client.lane_types import Settled, Verdict
from hypercluster.limits import OPEN_LEASE_TTL_MS, ORPHAN_KEEP_MS
from hypercluster.pb.v1 import command_pb2 as pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace import reaping
from hypercluster.state_machine.workspace.records import inode_key
from tests.simulation.events import EventQueue
from tests.simulation.invariants import ViolationError
from tests.simulation.sim_leases import LEASE_RATE, ROUNDING_S
from tests.simulation.workload import ROOT, Shared, Tokens

OPEN_TTL_S: Final = OPEN_LEASE_TTL_MS / 1000 / LEASE_RATE
KEEP_MS: Final = 300  # so that a lease is all that keeps an orphan
HELD_S: Final = (0.5, 3.0)
PAUSE_S: Final = (0.1, 0.5)
_LEASE: Final = b"OI"


@contextmanager
def short_keep(*, wanted: bool) -> Iterator[None]:
    """Every node of this process keeps orphans for KEEP_MS."""
    if wanted:
        reaping.ORPHAN_KEEP_MS = KEEP_MS  # type: ignore[misc]
    try:
        yield
    finally:
        reaping.ORPHAN_KEEP_MS = ORPHAN_KEEP_MS  # type: ignore[misc]


class OpenRules:
    """One a run. Told the changes of each entry once, as some node first applies it."""

    def __init__(self, events: EventQueue, shared: Shared) -> None:
        self._events = events
        self._shared = shared
        self._counted_until_s: dict[bytes, float] = {}
        self._logged: set[bytes] = set()  # lease keys
        self._inodes: dict[bytes, bytes] = {}  # key -> inode, of all that was ever opened
        self.leases = self.reaped = 0

    def counts_on(self, inode_id: bytes, until_s: float) -> None:
        self._counted_until_s[inode_id] = max(until_s, self._counted_until_s.get(inode_id, 0.0))
        self._inodes[inode_key(self._shared.workspace_id, inode_id)] = inode_id

    def closes(self, inode_id: bytes) -> None:
        self._counted_until_s.pop(inode_id, None)

    def applied(self, index: int, changes: Iterable[Change]) -> None:
        leases = self._shared.workspace_id + _LEASE
        for change in changes:
            if change.family == Family.COORDINATION and change.key.startswith(leases):
                inode_id = change.key[len(leases) : len(leases) + 16]
                if change.value is not None:
                    self._logged.add(inode_id)
                    self.leases += 1
                elif inode_id in self._logged:
                    self._logged.discard(inode_id)
                    self._check_over(index, inode_id, "an open lease ended")
            elif change.value is None and change.key in self._inodes:
                self.reaped += 1
                inode_id = self._inodes[change.key]
                if inode_id in self._logged:
                    raise ViolationError("an orphan with a lease was removed", f"index {index}: {inode_id.hex()}")

    def _check_over(self, index: int, inode_id: bytes, what: str) -> None:
        until_s = self._counted_until_s.get(inode_id, 0.0)
        if until_s > self._events.now + ROUNDING_S:
            raise ViolationError(f"{what} while its worker counts on it", f"index {index}: {inode_id.hex()}, {until_s}")


class OpenFiles:
    """Of one client: a file is made, reported, unlinked, held for a while, closed."""

    def __init__(self, name: str, rng: random.Random, shared: Shared, events: EventQueue, rules: OpenRules) -> None:
        self._tokens = Tokens(f"{name}-open")
        self._rng = rng
        self._shared = shared
        self._events = events
        self._rules = rules
        self._place: file_pb.Place | None = None  # of the file that is open, or is being made
        self._waits = False  # for an answer
        self._until_s = 0.0  # what it does next it does then
        self._unlinked = False
        self.inode_id = b""  # what it holds open, '' for nothing

    def next_command(self) -> tuple[bytes, bytes, bytes] | None:
        if self._waits or self._events.now < self._until_s:
            return None
        if self._place is None:
            self._place = file_pb.Place(directory=ROOT, name=self._tokens.next().encode())
            create = file_pb.FileCommand(create=file_pb.Create(place=self._place, mode=0o600, exclusive=True))
            return self._sent(create)
        if self.inode_id and not self._unlinked:
            return self._sent(file_pb.FileCommand(unlink=file_pb.Unlink(place=self._place)))
        self._close()
        return None

    def _sent(self, file: file_pb.FileCommand) -> tuple[bytes, bytes, bytes]:
        self._waits = True
        workspace_id = self._shared.workspace_id
        return pb.Command(file=file).SerializeToString(), workspace_id, workspace_id

    def _close(self) -> None:
        if self.inode_id:
            self._rules.closes(self.inode_id)
        self.inode_id, self._place, self._unlinked = b"", None, False
        self._until_s = self._events.now + self._rng.uniform(*PAUSE_S)

    def is_of(self, file: file_pb.FileCommand) -> bool:
        place = file.create.place if file.HasField("create") else file.unlink.place
        return place.name.find(b"-open-") > 0

    def settled(self, file: file_pb.FileCommand, settled: Settled) -> None:
        self._waits = False
        if settled.verdict is not Verdict.OK or settled.file is None:
            self._close()
        elif file.HasField("create"):
            self.inode_id = settled.file.inode_id
            self._until_s = self._events.now + self._rng.uniform(*PAUSE_S)
        else:
            self._unlinked = True
            self._until_s = self._events.now + self._rng.uniform(*HELD_S)

    def reported(self, inode_id: bytes, sent_s: float) -> None:
        """A report that named it was answered."""
        if inode_id and inode_id == self.inode_id:
            self._rules.counts_on(inode_id, sent_s + OPEN_TTL_S)
