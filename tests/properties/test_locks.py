"""The lock table against a second, deliberately simple model, over random commands of several clients.

Two machines run: one keeps its caches, one loses them at random, and both must write the same bytes. Beside the model's
answers each entry is held to the rules that matter most, said once more over what the product itself shows: mutual
exclusion, tokens that rise, nobody who waits for what is free, a queue that is not jumped.
HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import pytest

from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import Guard, LockStep, LockSteps
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockEvent, LockRow
from hypercluster.state_machine.coordination.queries import Target
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.outcome import ERRNO, FENCED, LOCK_HELD_EXPIRING, FileOutcome
from hypercluster.state_machine.wire import read_run
from tests.fakes.commands import ENTRY_NS, SCOPE, STAMP_NS, Replica, client, group, submit
from tests.unit.coordination.lock_model import EXCLUSIVE, GRACE, HELD, PERMIT, QUEUED, SHARED, Answer, LockModel
from tests.unit.coordination.table import LEADER, acquire, lock_records, on, reclaim, release
from tests.unit.workspace import ops

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(20)
ENTRIES = 120
CLIENTS, HANDLES = range(1, 7), range(1, 3)
NAMES = ("a", "b", "c")


def worker_of(number: int) -> str:
    return f"host-{number % 2}"


class Walk:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        # Every other walk is of few owners that hold several exclusive locks at once, so that they block one another.
        self.tight = seed % 2 == 1
        self.warm, self.cold = Replica(), Replica()
        self.model = LockModel()
        self.seqs: dict[bytes, int] = {}
        self.workspace_id = b""
        self.deadlocks = 0
        self.tokens: list[int] = []  # of all grants, as watchers heard of them
        self.known: list[tuple[int, int, str]] = [(STAMP_NS, 1, "a")]  # id, token, target: of requests of any time
        self.workspace_id = self.entry([self.of(1, Command(workspace_create=WorkspaceCreate(name="w", mode=0o755)))])[
            0
        ].inode_id
        self.file_id = self.entry([self.of(1, ops.create(ops.ROOT, b"f"))])[0].inode_id

    def say(self, what: str) -> str:
        return f"seed {self.seed}, index {self.warm.index}: {what}"

    # -- sending -----------------------------------------------------------------------------------

    def of(self, number: int, command: Command) -> DecodedGroup:
        client_id = client(number)
        seq = self.seqs[client_id] = self.seqs.get(client_id, 0) + 1
        message = submit(client_id, seq, [command.SerializeToString()], workspace=self.workspace_id)
        worker = worker_of(number)
        return group(message, principal=f"client/{worker}", worker=worker)

    def upkeep(self, steps: Iterable[LockStep]) -> DecodedGroup:
        """Past admission, which knows some steps that apply must not make."""
        seq = self.seqs[LEADER] = self.seqs.get(LEADER, 0) + 1
        command = MaintenanceCommand(lock_steps=LockSteps(workspace_id=self.workspace_id, steps=steps))
        message = submit(LEADER, seq, [Command(maintenance=command).SerializeToString()])
        return DecodedGroup(message, "leader", SCOPE, "", read_run(message))

    def entry(self, groups: list[DecodedGroup]) -> list[FileOutcome]:
        if self.draw.random() < 0.3:
            self.cold.restart()
        applied, again = self.warm.apply(*groups), self.cold.apply(*groups)
        assert applied == again, self.say("a cold machine answers or writes otherwise")
        self.events = [event for _, event in applied.events if isinstance(event, LockEvent)]
        outcomes = []
        for result in applied.groups:
            (run,) = result.runs
            reason = run.reasons[0] if run.reasons else 0
            version = run.versions[0] if run.versions else 0
            outcomes.append((run.files[0] if run.files else None) or FileOutcome(reason, present_index=version))
        return outcomes

    # -- one entry ---------------------------------------------------------------------------------

    def walk(self) -> None:
        for _ in range(ENTRIES):
            self.model.told.clear()
            groups, expected = [], []
            stamp = STAMP_NS + (int(self.warm.index) + 1) * ENTRY_NS
            for _ in range(self.draw.choice([1, 1, 1, 2, 4])):
                made, answer = self.command(stamp + len(groups))
                groups.append(made)
                expected.append(answer)
            before = self.tokens[-1] if self.tokens else 0
            found = [said(outcome) for outcome in self.entry(groups)]
            assert found == expected, self.say(f"answers {found}, expected {expected}")
            assert [(event.kind, event.lock.lock_id) for event in self.events] == self.model.told, self.say("events")
            granted = [event.lock.token for event in self.events if event.kind == 1]
            assert granted == list(range(before + 1, before + 1 + len(granted))), self.say("tokens do not rise by one")
            self.tokens += granted
            self.deadlocks += sum(event.kind == 7 for event in self.events)
            self.check_rules(stamp + len(groups) - 1)

    def command(self, now: int) -> tuple[DecodedGroup, Answer]:
        draw = self.draw
        number, handle = (draw.randint(1, 3), 1) if self.tight else (draw.choice(CLIENTS), draw.choice(HANDLES))
        weights = (10, 3, 2, 2, 1) if self.tight else (10, 6, 6, 4, 2)
        match draw.choices(("acquire", "release", "step", "write", "reclaim"), weights)[0]:
            case "acquire":
                return self.acquire(now, number, handle)
            case "release":
                lock_id = self.some()[0]
                owner = self.model.find(lock_id)
                if owner is not None and draw.random() < 0.9:
                    number = owner.owner[0]
                return self.of(number, release(lock_id)), self.model.release(now, number, lock_id)
            case "reclaim":
                lock_id, token, _ = self.some()
                answer = self.model.reclaim(now, (number, handle), worker_of(number), lock_id, max(token, 1))
                return self.of(number, reclaim(lock_id, max(token, 1), handle)), self.note(now, answer)
            case "write":
                lock_id, token, target = self.some()
                target = draw.choice([target, target, target, *NAMES])
                guard = Guard(target=on(self.what(target)), token=max(token, 1))
                command = ops.write(self.file_id, 0, b"%d" % now)
                if target == "file" and draw.random() < 0.5:
                    guard.ClearField("target")
                command.file.guards.append(guard)
                passes = self.model.passes(target, max(token, 1))
                return self.of(number, command), ("written",) if passes else ("fenced",)
        return self.steps(now)

    def acquire(self, now: int, number: int, handle: int) -> tuple[DecodedGroup, Answer]:
        draw = self.draw
        target = draw.choice([*NAMES, "file"] if self.tight else [*NAMES, "file", "sem"])
        kind = PERMIT if target == "sem" else draw.choice([SHARED] * 3 + [EXCLUSIVE] * (27 if self.tight else 3))
        if draw.random() < 0.03:
            target, kind = "sem", draw.choice([SHARED, PERMIT])
        permits = draw.choice([2, 2, 2, 2, 2, 3]) if kind == PERMIT else 0
        wait, single = draw.random() < 0.8, draw.random() < (0.9 if self.tight else 0.6)
        wait_ms = draw.choice([0] if self.tight else [0, 0, 1, 5, 50]) if wait else 0
        command = acquire(
            self.what(target), kind, handle, wait=wait, wait_ms=wait_ms, one_at_a_time=single, permits=permits
        )
        answer = self.model.acquire(
            now, (number, handle), worker_of(number), target, kind, permits, wait, wait_ms, single
        )
        return self.of(number, command), self.note(now, answer)

    def steps(self, now: int) -> tuple[DecodedGroup, Answer]:
        """What a leader's timers may have seen, now or a while ago."""
        draw, made, steps = self.draw, 0, []
        for _ in range(draw.choice([1, 1, 3])):
            lock_id, token, _ = self.some()
            asked = self.model.find(lock_id)
            state = asked.state if asked is not None and draw.random() < 0.9 else draw.choice([QUEUED, HELD, GRACE])
            token = asked.token if asked is not None and draw.random() < 0.9 else self.some()[1]
            to_state = draw.choice({QUEUED: [4], HELD: [3, 3, 3, 4], GRACE: [2, 4, 4]}[state])
            until = asked.until if asked is not None and state == QUEUED and draw.random() < 0.8 else 0
            steps.append(
                LockStep(lock_id=lock_id, token=token, from_state=state, to_state=to_state, wait_until_ns=until)  # type: ignore[arg-type]
            )
            made += self.model.step(now, lock_id, token, state, to_state, until)
        return self.upkeep(steps), ("made", made)

    def note(self, now: int, answer: Answer) -> Answer:
        self.known = [(asked.id, asked.token, asked.target) for asked in self.model.all] + self.known[-30:]
        return answer

    def some(self) -> tuple[int, int, str]:
        """A request that is there, most of the time; otherwise one of any time."""
        if self.model.all and self.draw.random() < 0.7:
            asked = self.draw.choice(self.model.all)
            return asked.id, asked.token, asked.target
        return self.draw.choice(self.known)

    def what(self, target: str) -> str | bytes:
        return self.file_id if target == "file" else target

    # -- rules -------------------------------------------------------------------------------------

    def check_rules(self, now: int) -> None:
        store = self.warm.store
        rows = queries.list_locks(store, self.workspace_id, 0, 10_000).rows
        expected = sorted((asked.id, asked.state, asked.token, asked.until) for asked in self.model.all)
        found = [(row.lock_id, row.state, row.token, row.wait_until_ns or self.until(row.lock_id)) for row in rows]
        assert found == expected, self.say("the locks there are")
        for target in (*NAMES, "file", "sem"):
            what = self.what(target)
            key = Target(b"", what) if isinstance(what, str) else Target(what, "")
            table = queries.locks_of_target(store, self.workspace_id, key, 0, 10_000).rows
            holders = [row for row in table if row.state in {HELD, GRACE}]
            waiters = [row for row in table if row.state == QUEUED and not 0 < row.wait_until_ns <= now]
            self.check_target(holders, waiters)
        assert queries.lock_count(store, self.workspace_id) == len(rows), self.say("the count of locks")
        assert queries.last_token(store) == (self.tokens[-1] if self.tokens else 0), self.say("the token counter")

    def until(self, lock_id: int) -> int:
        """A holder's row does not say when its wait would have ended."""
        asked = self.model.find(lock_id)
        return asked.until if asked is not None and asked.state != QUEUED else 0

    def check_target(self, holders: list[LockRow], waiters: list[LockRow]) -> None:
        permits = max((row.permits for row in holders), default=0)
        exclusive = any(row.kind == EXCLUSIVE for row in holders)
        assert not exclusive or len(holders) == 1, self.say("an exclusive lock is not alone")
        assert not permits or len(holders) <= permits, self.say("a semaphore has too many holders")
        assert len({(row.client_id, row.handle_id) for row in holders}) == len(holders), self.say("one owner twice")
        assert not waiters or holders, self.say("somebody waits for what is free")
        assert [row.lock_id for row in waiters] == sorted(row.lock_id for row in waiters), self.say("a queue's order")

    def finish(self) -> None:
        assert list(self.warm.store.items()) == list(self.cold.store.items()), self.say("the stores differ")
        for asked in list(self.model.all):
            if asked in self.model.all:
                now = STAMP_NS + (int(self.warm.index) + 1) * ENTRY_NS
                made = self.of(asked.owner[0], release(asked.id))
                assert said(self.entry([made])[0]) == self.model.release(now, asked.owner[0], asked.id)
        assert lock_records(self.warm.store) == [], self.say("records without a lock")


def said(outcome: FileOutcome) -> Answer:
    """An outcome in the model's words."""
    if outcome.reason == FENCED:
        return ("fenced",)
    if outcome.reason == LOCK_HELD_EXPIRING:
        return ("expiring",)
    if outcome.reason == ERRNO:
        return ("errno", outcome.errno)
    assert outcome.reason == 0, outcome
    if outcome.lock is not None:
        return ("ok", outcome.lock.state, outcome.lock.lock_id, outcome.lock.token)
    return ("written",) if outcome.log_index else ("made", outcome.present_index)


def walk_through(seed: int) -> Walk:
    walk = Walk(seed)
    walk.walk()
    walk.finish()
    return walk


@pytest.mark.req("WS-40", "WS-41", "WS-42", "WS-43", "WS-47", "D-10")
@pytest.mark.parametrize("seed", SEEDS)
def test_locks_do_what_the_specification_says(seed: int) -> None:
    walk = walk_through(seed)
    assert len(walk.tokens) > 15, walk.say("too little happened to show anything")


def test_the_walks_meet_deadlocks() -> None:
    assert sum(walk_through(seed).deadlocks for seed in (1, 3, 9)) > 0


@pytest.mark.long
@pytest.mark.req("WS-40", "WS-41", "WS-42", "WS-43", "WS-47", "D-10")
@pytest.mark.parametrize("start", range(1_000, 2_000, 100))
def test_locks_over_a_thousand_seeds(start: int) -> None:
    for seed in range(start, start + 100):
        walk_through(seed)
