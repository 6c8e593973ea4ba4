"""D-7 against a second, deliberately simple model, over random runs with retries, conflicts, gaps, floors, restarts.

HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random

import pytest

from hypercluster.pb.v1.command_pb2 import Command, ForgetLane
from hypercluster.pb.v1.coordination_command_pb2 import Abandon
from hypercluster.state_machine import lanes, queries
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import ClientId
from tests.fakes.commands import SCOPE, Replica, answers, client, group, hub_set, maintenance, submit
from tests.known_bad.dedupe_off import dedupe_off
from tests.unit.state_machine.lane_model import Answer, Model

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(24)
STEPS = 120
UPKEEP = client(999)


class Walk:
    """One seed's run: the machine twice (one replica keeps its caches, one loses them at random) and the model."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.warm, self.cold = Replica(), Replica()
        self.model = Model()
        self.sent: dict[tuple[bytes, int], tuple[bytes, bytes, int]] = {}
        self.basis: dict[bytes, int] = {}
        self.upkeep_seq = 0
        self.givers: dict[str, int] = {}  # last seq of the lanes that give up the seqs of others

    def say(self, what: str) -> str:
        return f"seed {self.seed}, index {self.warm.index}: {what}"

    def command(self) -> tuple[bytes, bytes, int]:
        key = b"k%d" % self.draw.randrange(4)
        expected = self.draw.choice([-1, -1, 0, self.model.versions.get(key, 0)])
        raw = hub_set(key, b"%d" % self.draw.randrange(1_000_000), expected=None if expected < 0 else expected)
        return raw, key, expected

    def run(self, name: bytes) -> tuple[str, bytes, int, int, int, list[tuple[bytes, bytes, int]]]:
        draw, lane = self.draw, self.model.lanes.get(name)
        last = lane.last if lane else draw.choice([0, 0, 0, 6])
        kind = draw.choice(["next", "next", "next", "retry", "retry", "overlap", "gap", "conflict", "old"])
        first = last + 1
        if kind == "gap":
            first = last + draw.randint(2, 5)
        elif kind != "next" and last:
            first = max(1, last - draw.randrange(0, 60 if kind == "old" else 6))
        count = draw.choice([1, 1, 2, 5, 16])
        commands = []
        for seq in range(first, first + count):
            # The bytes of a seq are fixed when it is first sent; a conflict is a client that forgot it.
            fresh = self.command()
            known = self.sent.setdefault((name, seq), fresh)
            commands.append(fresh if kind == "conflict" and draw.random() < 0.3 else known)
        floor = draw.choice([0, 0, max(0, last - draw.randrange(8)), last + 3])
        owner = "mallory" if draw.random() < 0.04 else "alice"
        basis = self.basis.setdefault(name, int(self.warm.index))
        return owner, name, first, min(floor, first - 1), basis, commands

    def step(self) -> None:
        draw = self.draw
        if draw.random() < 0.06 and self.model.lanes:
            self.forget(draw.choice(sorted(self.model.lanes)))
            return
        if draw.random() < 0.06:
            self.abandon(client(draw.randrange(1, 7)))
            return
        names = [client(draw.randrange(1, 6)) for _ in range(draw.choice([1, 1, 3]))]
        runs = [self.run(name) for name in names]  # clients may repeat: a later group sees what an earlier one did
        index = int(self.warm.index) + 1
        expected: list[list[Answer]] = [self.model.submit(index, *run) for run in runs]
        groups = [
            group(submit(name, first, [c[0] for c in commands], floor=floor, basis=basis), principal=owner)
            for owner, name, first, floor, basis, commands in runs
        ]
        if draw.random() < 0.3:
            self.cold.restart()
        applied, again = self.warm.apply(*groups), self.cold.apply(*groups)
        assert [answers(r) for r in applied.groups] == expected, self.say(f"{runs}")
        assert applied == again, self.say("a cold cache answers or writes otherwise")

    def abandon(self, name: bytes) -> None:
        lane = self.model.lanes.get(name)
        through = max(1, (lane.last if lane else 0) + self.draw.choice([-3, 0, 1, 1, 2, 9, 1_024, 1_025]))
        owner = "mallory" if self.draw.random() < 0.1 else "alice"
        basis = self.basis.setdefault(name, int(self.warm.index))
        expected = self.model.abandon(int(self.warm.index) + 1, owner, name, through, basis)
        command = Command(abandon=Abandon(client_id=name, through_seq=through, basis=basis)).SerializeToString()
        self.givers[owner] = seq = self.givers.get(owner, 0) + 1
        sender = client(990 if owner == "alice" else 991)
        message = group(submit(sender, seq, [command], basis=int(self.warm.index)), principal=owner)
        applied, again = self.warm.apply(message), self.cold.apply(message)
        assert applied == again, self.say("a cold cache gives up otherwise")
        assert answers(applied.groups[0])[0][2:] == expected, self.say(f"abandon of {name.hex()} through {through}")

    def forget(self, name: bytes) -> None:
        last = self.model.lanes[name].last + self.draw.choice([0, 0, 1])
        self.upkeep_seq += 1
        raw = maintenance(forget_lane=ForgetLane(client_id=name, last_seq=last))
        message = group(submit(UPKEEP, self.upkeep_seq, [raw], basis=int(self.warm.index)), principal="leader")
        applied, again = self.warm.apply(message), self.cold.apply(message)
        assert applied == again, self.say("a cold cache forgets otherwise")
        forgotten = self.model.forget(name, last)
        assert (answers(applied.groups[0])[0][2] == 0) == forgotten, self.say("forget")
        if forgotten and self.draw.random() < 0.5:
            # The process goes on under a new client_id; half of the forgotten come back under the old one.
            self.basis[name] = int(self.warm.index)
            for key in [key for key in self.sent if key[0] == name]:
                del self.sent[key]


def walk_through(seed: int) -> Walk:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    return walk


@pytest.mark.req("D-7", "D-8", "WS-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_do_what_the_specification_says(seed: int) -> None:
    walk = walk_through(seed)
    assert len(walk.model.judged) == len(set(walk.model.judged)) or walk.model.dedupe_floor
    assert queries.server_seq(walk.warm.store, SCOPE) == walk.model.server_seq
    assert queries.dedupe_floor(walk.warm.store) == walk.model.dedupe_floor
    assert queries.lane_count(walk.warm.store) == len(walk.model.lanes) + (walk.upkeep_seq > 0) + len(walk.givers)
    assert list(walk.warm.store.items()) == list(walk.cold.store.items()), walk.say("the stores differ")
    for name, lane in walk.model.lanes.items():
        found = lanes.read_lane(walk.warm.store, ClientId(name))
        assert found is not None
        assert (found.last_seq, found.floor) == (lane.last, lane.floor), walk.say("a lane's head")


@pytest.mark.long
@pytest.mark.req("D-7", "D-8")
@pytest.mark.parametrize("start", range(1_000, 2_000, 100))
def test_lanes_over_a_thousand_seeds(start: int) -> None:
    for seed in range(start, start + 100):
        test_lanes_do_what_the_specification_says(seed)


@pytest.mark.req("D-7")
def test_a_tiny_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lane is evicted after every entry."""
    first = Walk(1000)
    for _ in range(60):
        first.step()
    monkeypatch.setattr(lanes.Lanes.__init__, "__defaults__", (0,))
    second = Walk(1000)
    for _ in range(60):
        second.step()
    assert first.warm.machine.applied == second.warm.machine.applied


@pytest.mark.req("D-7", "CH-10")
def test_dedupe_off_is_found() -> None:
    """The known-bad build applies a retry again; the model must notice within the seeds above."""
    with dedupe_off(), pytest.raises(AssertionError, match="index"):
        walk_through(SEEDS[0])


@pytest.mark.req("D-7")
def test_results_above_the_floor_are_kept_and_no_more() -> None:
    replica = Replica()
    for turn in range(70):
        replica.run(client(1), 1 + 16 * turn, *[hub_set(b"k%d" % n) for n in range(16)])
    last = 70 * 16
    oldest = last - 1_024 + 1
    for seq, reason in ((oldest, 0), (oldest - 1, 21), (last, 0), (1, 21)):
        assert answers(replica.run(client(1), seq, hub_set(b"k%d" % ((seq - 1) % 16))))[0][2] == reason
    replica.run(client(1), last + 1, hub_set(b"x"), floor=last)
    assert answers(replica.run(client(1), last, hub_set(b"k15")))[0][2] == 21
    prefix = b"R" + client(1)
    assert len([c for c in replica.store.items() if c.key.startswith(prefix)]) == 1


@pytest.mark.req("D-4", "D-7")
def test_forgetting_a_lane_of_many_results_takes_several_commands() -> None:
    replica = Replica()
    for seq in range(1, 1_025):
        replica.run(client(1), seq, hub_set(b"k"))
    done = []
    for turn in range(1, 5):
        raw = maintenance(forget_lane=ForgetLane(client_id=client(1), last_seq=1_024))
        applied = replica.apply(group(submit(UPKEEP, turn, [raw]), principal="leader"))
        assert len(applied.changes) <= 1_000
        done.append(answers(applied.groups[0])[0][2:])
        if done[-1][1] == 0:
            break
    assert done == [(0, 1), (0, 0)]
    assert not [c for c in replica.store.items() if client(1) in c.key]
    assert queries.dedupe_floor(replica.store) == 1_024


def test_the_store_is_plain_memory() -> None:
    """The walk compares stores item by item, so its store must list them."""
    assert list(MemoryStore().items()) == []
