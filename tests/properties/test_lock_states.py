"""Every state of one target with three owners, and in each of them every input, against the second model.

A state is who holds, in which kind and whether in grace, and who waits in which order; ids and tokens do not count. All
that can be reached is, by breadth first; each (state, input) pair is tried on a machine started from the store of that
state, so this is also every input right after a restart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import LockStep, LockSteps
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockEvent
from hypercluster.state_machine.coordination.queries import Target
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.store import MemoryStore
from hypercluster.state_machine.wire import read_run
from tests.fakes.commands import ENTRY_NS, SCOPE, STAMP_NS, Replica, client, group, submit
from tests.properties.test_locks import said
from tests.unit.coordination.lock_model import EXCLUSIVE, FREE, GRACE, HELD, QUEUED, SHARED, Answer, Asked, LockModel
from tests.unit.coordination.table import LEADER, acquire, reclaim, release

OWNERS = (1, 2, 3)
WORKER = {1: "host-0", 2: "host-0", 3: "host-1"}
NAME = "x"
MOVES = [(HELD, GRACE), (GRACE, HELD), (GRACE, FREE), (QUEUED, FREE), (HELD, FREE)]

State = tuple[tuple[int, int, int], ...]  # (owner, kind, state): holders by token, then the queue
Input = tuple[str, int, int, int]  # what, owner, and two numbers of its own


@dataclass
class Place:
    """One way to a state: the store and the model there."""

    store: MemoryStore
    model: LockModel
    seqs: dict[bytes, int]


def state_of(model: LockModel) -> State:
    order = sorted(model.all, key=lambda asked: (asked.state == QUEUED, asked.token))  # sorted is stable: the queue
    return tuple((asked.owner[0], asked.kind, asked.state) for asked in order)


def inputs(model: LockModel) -> Iterator[Input]:
    for owner in OWNERS:
        for kind in (SHARED, EXCLUSIVE):
            for wait in (0, 1):
                yield "acquire", owner, kind, wait
    for place, _ in enumerate(model.all):
        for owner in OWNERS:
            yield "release", owner, place, 0
            yield "reclaim", owner, place, 0
        for move, _ in enumerate(MOVES):
            yield "step", 0, place, move


class Attempt:
    """One input in one state."""

    def __init__(self, workspace_id: bytes, place: Place) -> None:
        self.workspace_id = workspace_id
        self.replica = Replica(place.store.copy())
        self.model = copy.deepcopy(place.model)
        self.model.told.clear()
        self.seqs = dict(place.seqs)
        self.now = STAMP_NS + (int(self.replica.index) + 1) * ENTRY_NS

    def send(self, client_id: bytes, worker: str, command: Command) -> Answer:
        seq = self.seqs[client_id] = self.seqs.get(client_id, 0) + 1
        message = submit(client_id, seq, [command.SerializeToString()], workspace=self.workspace_id)
        if worker:
            made = group(message, worker=worker, principal=f"client/{worker}")
        else:  # past admission, which knows that a lease has its grace
            made = DecodedGroup(message, "leader", SCOPE, "", read_run(message))
        applied = self.replica.apply(made)
        self.told = [(event.kind, event.lock.lock_id) for _, event in applied.events if isinstance(event, LockEvent)]
        (run,) = applied.groups[0].runs
        return said(run.files[0]) if run.files and run.files[0] else ("made", run.versions[0] if run.versions else 0)

    def make(self, asked: Input) -> tuple[Answer, Answer]:
        """(what came, what should)."""
        what, owner, first, second = asked
        worker = WORKER.get(owner, "")
        if what == "acquire":
            found = self.send(client(owner), worker, acquire(NAME, first, wait=bool(second), one_at_a_time=True))
            args = self.now, (owner, 1), worker, NAME, first, 0, bool(second), 0, True
            return found, self.model.acquire(*args)
        lock = self.model.all[first]
        match what:
            case "release":
                found = self.send(client(owner), worker, release(lock.id))
                return found, self.model.release(self.now, owner, lock.id)
            case "reclaim":
                found = self.send(client(owner), worker, reclaim(lock.id, max(1, lock.token)))
                return found, self.model.reclaim(self.now, (owner, 1), worker, lock.id, max(1, lock.token))
        return self.step(lock, *MOVES[second])

    def step(self, lock: Asked, from_state: int, to_state: int) -> tuple[Answer, Answer]:
        step = LockStep(lock_id=lock.id, token=lock.token, from_state=from_state, to_state=to_state)  # type: ignore[arg-type]
        steps = LockSteps(workspace_id=self.workspace_id, steps=[step])
        found = self.send(LEADER, "", Command(maintenance=MaintenanceCommand(lock_steps=steps)))
        return found, ("made", int(self.model.step(self.now, lock.id, lock.token, from_state, to_state, 0)))

    def shown(self) -> State:
        page = queries.locks_of_target(self.replica.store, self.workspace_id, Target(b"", NAME), 0, 100)
        return tuple((int.from_bytes(row.client_id, "big"), row.kind, row.state) for row in page.rows)


@pytest.mark.req("WS-40", "WS-41", "WS-43")
def test_every_input_in_every_state_of_a_target() -> None:
    replica = Replica()
    command = Command(workspace_create=WorkspaceCreate(name="w", mode=0o755)).SerializeToString()
    made = replica.apply(group(submit(client(9), 1, [command]))).groups[0].runs[0].files[0]
    assert made is not None
    known: dict[State, Place] = {(): Place(replica.store, LockModel(), {})}
    front = list(known)
    tried = 0
    while front:
        state = front.pop(0)
        place = known[state]
        for asked in inputs(place.model):
            tried += 1
            attempt = Attempt(made.inode_id, place)
            found, expected = attempt.make(asked)
            after = state_of(attempt.model)
            words = f"{asked} in {state}"
            assert found == expected, words
            assert attempt.told == attempt.model.told, words
            assert attempt.shown() == after, words
            check_rules(after, words)
            if after not in known:
                known[after] = Place(attempt.replica.store, attempt.model, attempt.seqs)
                front.append(after)
    assert len(known) > 100, "hardly any state was reached"
    print(f"{len(known)} states, {tried} inputs")


def check_rules(state: State, words: str) -> None:
    holders = [one for one in state if one[2] in {HELD, GRACE}]
    assert len(holders) <= 1 or all(kind == SHARED for _, kind, _ in holders), f"{words}: not alone"
    assert holders or not state, f"{words}: somebody waits for what is free"
    waiting = [one for one in state if one[2] == QUEUED]
    shared = bool(holders) and all(kind == SHARED for _, kind, _ in holders)
    assert not (shared and waiting and waiting[0][1] == SHARED), f"{words}: the first in the queue could be let in"
