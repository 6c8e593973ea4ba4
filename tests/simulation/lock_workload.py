"""Simulated clients that lock, renew, write under their token, fall asleep, crash, wait in the queue, and take over
what silent ones of their worker hold.

Owns: `LockWorkload`: what such a client does next, its renewals, and what it counts on (told to LockRules).
Never: the clock of a node; a belief that no answer gave it: it counts a lease from when it sent what was answered.
Invariants: it holds or waits for one lock at a time. Who sleeps renews nothing and, awake again, writes with
the token it remembers; who crashes forgets its lock, which stands until the cluster ends it, and is silent for a while.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from hypercluster.client.lane_types import Settled, Verdict
from hypercluster.node.leases import Asked, Renewed
from hypercluster.pb.v1 import command_pb2 as pb
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.state_machine.outcome import FENCED
from tests.simulation.events import EventQueue
from tests.simulation.lock_rules import LockRules, Target
from tests.simulation.open_files import OpenFiles
from tests.simulation.sim_leases import COUNTED_ON_S, MARGIN_S, TTL_S
from tests.simulation.workload import ROOT, Shared, Tokens

NAMES: Final = ("l0", "l1")
PERMITS: Final = {"s1": 1, "s2": 2}
TURN_S: Final = (0.01, 0.06)
SLEEP_S: Final = (0.3 * COUNTED_ON_S, 1.5 * COUNTED_ON_S)
RENEW_S: Final = TTL_S / 3
SILENT_S: Final = COUNTED_ON_S - MARGIN_S  # after that a lock may be taken over
CRASHED_S: Final = 1.3 * SILENT_S
FOLLOWED_S: Final = 0.5 * SILENT_S  # the cluster says when it may
WAIT_MS: Final = (0, 100, 500)
KINDS: Final = (lock_pb.LOCK_KIND_EXCLUSIVE, lock_pb.LOCK_KIND_EXCLUSIVE, lock_pb.LOCK_KIND_SHARED)


class Renewing(Protocol):
    """Sends a renewal from the client to the node that it takes for the leader."""

    def __call__(
        self, asked: Sequence[Asked], opens: Sequence[bytes], answered: Callable[[Sequence[Renewed]], None]
    ) -> None: ...


@dataclass(slots=True)
class Mine:
    """A lock that is held, or waited for (token 0)."""

    name: str
    lock_id: int
    token: int = 0
    asleep_until_s: float = 0.0


@dataclass(slots=True)
class Left:
    """A lock whose client fell silent."""

    mine: Mine
    client: str
    since_s: float


@dataclass(slots=True)
class Lockers:
    """What all lock clients of a run know. `takes_over`: whether they follow each other (of a share of the seeds)."""

    shared: Shared
    takes_over: bool
    semaphores: bool
    left: list[Left] = field(default_factory=list)


class LockWorkload:
    def __init__(
        self,
        name: str,
        rng: random.Random,
        lockers: Lockers,
        events: EventQueue,
        rules: LockRules,
        renewing: Renewing,
        opens: OpenFiles | None,
        *,
        prepares: bool,
    ) -> None:
        """`lockers` is of the lock clients alone; one of them prepares its workspace."""
        self._name = name
        self._tokens = Tokens(name)
        self._rng = rng
        self._lockers = lockers
        self._shared = lockers.shared
        self._opens = opens
        self._events = events
        self._rules = rules
        self._renewing = renewing
        self._prepares = prepares
        self._mine: Mine | None = None
        self._asked: dict[int, tuple[str, float]] = {}  # acquires and reclaims on their way: name and when, by handle
        self._silent_until_s = 0.0
        self._releasing = self._preparing = False
        self._next_s = 0.0
        self.stopped = False
        events.after(RENEW_S, self._renew)

    # --- what comes next --------------------------------------------------------------------------------

    def next_command(self) -> tuple[bytes, bytes, bytes] | None:
        now_s, rng = self._events.now, self._rng
        if not self._shared.files:
            return self._prepare()
        if now_s < self._silent_until_s:
            return None
        if self._opens is not None and (command := self._opens.next_command()) is not None:
            return command
        if now_s < self._next_s or self._asked or self._releasing:
            return None
        self._next_s = now_s + rng.uniform(*TURN_S)
        mine = self._mine
        if mine is None:
            return self._take_over() or self._acquire()
        if not mine.token or now_s < mine.asleep_until_s:
            return None
        chance = rng.random()
        if mine.asleep_until_s:
            mine.asleep_until_s = 0.0  # it wakes, and knows nothing of the time that has passed
        elif chance < 0.04:
            mine.asleep_until_s = now_s + rng.uniform(*SLEEP_S)
            self._falls_silent(mine, mine.asleep_until_s)
            return None
        elif chance < 0.06:
            self._mine = None  # crashed
            self._falls_silent(mine, now_s + CRASHED_S)
            return None
        elif chance < 0.16:
            return self._release(mine)
        return self._write(mine)

    def _prepare(self) -> tuple[bytes, bytes, bytes] | None:
        """A workspace and a file in it, before anything else and by one client alone."""
        if self._preparing or not self._prepares:
            return None
        self._preparing = True
        workspace_id = self._shared.workspace_id
        if not workspace_id:
            made = file_pb.WorkspaceCreate(name=self._tokens.next(), uid=1000, gid=1000, mode=0o755)
            return pb.Command(workspace_create=made).SerializeToString(), b"", b""
        place = file_pb.Place(directory=ROOT, name=self._tokens.next().encode())
        create = file_pb.FileCommand(create=file_pb.Create(place=place, mode=0o644, exclusive=True))
        return pb.Command(file=create).SerializeToString(), workspace_id, workspace_id

    def _prepared(self, settled: Settled) -> None:
        self._preparing = False
        if settled.verdict is not Verdict.OK or settled.file is None:
            return
        if self._shared.workspace_id:
            self._shared.files.append(settled.file.inode_id)
        else:
            self._shared.workspace_id = settled.file.inode_id

    def _falls_silent(self, mine: Mine, until_s: float) -> None:
        if self._lockers.takes_over:
            self._silent_until_s = until_s
            self._lockers.left.append(Left(mine, self._name, self._events.now))

    def _take_over(self) -> tuple[bytes, bytes, bytes] | None:
        now_s, left = self._events.now, self._lockers.left
        due = [one for one in left if one.client != self._name and now_s > one.since_s + FOLLOWED_S]
        if not due:
            return None
        self._lockers.left = [one for one in left if one not in due]
        mine, handle_id = due[-1].mine, self._new_handle()
        self._asked[handle_id] = mine.name, now_s
        self._rules.wants(self._target(mine.name), mine.lock_id)
        op = lock_pb.LockReclaim(lock_id=mine.lock_id, token=mine.token, handle_id=handle_id)
        return self._of(lock_pb.CoordinationCommand(lock_reclaim=op))

    def _new_handle(self) -> int:
        return int(self._tokens.next().rpartition("-")[2])

    def _acquire(self) -> tuple[bytes, bytes, bytes]:
        rng, handle_id = self._rng, self._new_handle()
        permit = self._lockers.semaphores and rng.random() < 0.3
        name = rng.choice([*PERMITS]) if permit else rng.choice(NAMES)
        wait = rng.random() < 0.8
        op = lock_pb.LockAcquire(
            target=lock_pb.LockTarget(name=name),
            kind=lock_pb.LOCK_KIND_PERMIT if permit else rng.choice(KINDS),
            permits=PERMITS.get(name, 0),
            handle_id=handle_id,
            wait=wait,
            wait_ms=rng.choice(WAIT_MS) if wait else 0,
        )
        self._asked[handle_id] = name, self._events.now
        return self._of(lock_pb.CoordinationCommand(lock_acquire=op))

    def _release(self, mine: Mine) -> tuple[bytes, bytes, bytes]:
        self._rules.gives_back(self._target(mine.name), mine.lock_id)
        self._mine, self._releasing = None, True
        return self._of(lock_pb.CoordinationCommand(lock_release=lock_pb.LockRelease(lock_id=mine.lock_id)))

    def _write(self, mine: Mine) -> tuple[bytes, bytes, bytes]:
        write = file_pb.Write(
            inode_id=self._rng.choice(self._shared.files), append=True, inline=self._tokens.next().encode()
        )
        guard = lock_pb.Guard(target=lock_pb.LockTarget(name=mine.name), token=mine.token)
        workspace_id = self._shared.workspace_id
        command = pb.Command(file=file_pb.FileCommand(write=write, guards=[guard]))
        return command.SerializeToString(), workspace_id, workspace_id

    def _of(self, op: lock_pb.CoordinationCommand) -> tuple[bytes, bytes, bytes]:
        return pb.Command(coordination=op).SerializeToString(), self._shared.workspace_id, b""

    def _target(self, name: str) -> Target:
        return self._shared.workspace_id, name

    # --- answers ----------------------------------------------------------------------------------------

    def settled(self, command: bytes, settled: Settled) -> None:
        parsed = pb.Command.FromString(command)
        named = parsed.file.HasField("create") or parsed.file.HasField("unlink")
        if self._opens is not None and named and self._opens.is_of(parsed.file):
            self._opens.settled(parsed.file, settled)
        elif parsed.HasField("workspace_create") or named:
            self._prepared(settled)
        elif parsed.HasField("file"):
            self._written(parsed.file.guards[0].token, settled)
        elif parsed.coordination.HasField("lock_release"):
            self._releasing = False
        elif parsed.coordination.HasField("lock_reclaim"):
            self._acquired(parsed.coordination.lock_reclaim.handle_id, settled)
            if settled.verdict is Verdict.OK:
                self._rules.took()
        else:
            self._acquired(parsed.coordination.lock_acquire.handle_id, settled)

    def _written(self, token: int, settled: Settled) -> None:
        if settled.verdict is Verdict.OK:
            self._rules.wrote(token, settled.raft_index)
        elif settled.verdict is Verdict.REFUSED and settled.reason == FENCED:
            self._rules.was_fenced(token, settled.raft_index)
            if self._mine is not None and self._mine.token == token:
                self._mine = None

    def _acquired(self, handle_id: int, settled: Settled) -> None:
        name, asked_s = self._asked.pop(handle_id)
        if settled.verdict is not Verdict.OK or settled.file is None:
            return
        ack = settled.file.lock
        self._mine = Mine(name, ack.lock_id, ack.token)
        if ack.token:
            self._rules.counts_on(self._target(name), ack.lock_id, asked_s + COUNTED_ON_S)

    # --- renewals ---------------------------------------------------------------------------------------

    def _renew(self) -> None:
        if self.stopped:
            return
        mine, sent_s = self._mine, self._events.now
        if mine is not None and sent_s < mine.asleep_until_s:
            mine = None
        inode_id = self._opens.inode_id if self._opens is not None else b""
        if (mine is not None or inode_id) and sent_s >= self._silent_until_s:

            def answered(found: Sequence[Renewed]) -> None:
                if mine is not None:
                    self._renewed(mine, sent_s, found[0])
                if self._opens is not None:
                    self._opens.reported(inode_id, sent_s)

            asked = [Asked(mine.lock_id, mine.token)] if mine is not None else []
            self._renewing(asked, [inode_id] if inode_id else [], answered)
        self._events.after(RENEW_S * self._rng.uniform(0.5, 1.0), self._renew)

    def _renewed(self, mine: Mine, sent_s: float, found: Renewed) -> None:
        if self._mine is not mine:
            return
        if found.state == lock_pb.LOCK_STATE_FREE:
            self._mine = None
        elif found.state == lock_pb.LOCK_STATE_HELD:
            mine.token = found.token
            self._rules.counts_on(self._target(mine.name), mine.lock_id, sent_s + COUNTED_ON_S)
