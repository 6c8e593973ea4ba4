"""Random histories of objects against a list of what each held: reads at any index, listings, what the floor leaves.

Two walks. `Column` is versions.py alone, with commands that touch an object several times. The other is the whole
machine: hub keys, names and xattrs, on a replica that keeps its caches and one that loses them at random moments, whose
digests must stay equal. HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hypercluster.errors import HistoryGoneError
from hypercluster.pb.v1.command_pb2 import RaiseVersionsFloor
from hypercluster.state_machine import queries, versions
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.state_machine.workspace.queries import read_entry
from hypercluster.state_machine.workspace.records import (
    ENTRY,
    INODE,
    PAGE,
    XATTR_TABLE,
    XATTR_VALUE,
    body_of,
    prefix_end,
)
from hypercluster.values import Index, Scope
from tests.fakes.commands import SCOPE, Replica, client, group, hub_del, hub_set, maintenance, submit
from tests.unit.state_machine.versions_column import Column
from tests.unit.workspace import ops

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(20)
KEYS_A_STEP = 7  # in place of FLOOR_KEYS_MAX, so that one command does not reach the floor
VERSIONED = (INODE, ENTRY, XATTR_TABLE, XATTR_VALUE, PAGE)
NAMES = [b"a", b"b", b"c"]


@dataclass(frozen=True)
class Held:
    """`value` None: a deletion."""

    index: int
    ordinal: int
    value: bytes | None


class History:
    """What every object held, from the oldest version to the newest."""

    def __init__(self) -> None:
        self.objects: dict[bytes, list[Held]] = {}

    def present(self, key: bytes) -> bytes | None:
        held = self.objects.get(key)
        return held[-1].value if held else None

    def put(self, key: bytes, held: Held) -> None:
        known = self.objects.setdefault(key, [])
        if known and (known[-1].index, known[-1].ordinal) == (held.index, held.ordinal):
            known.pop()
        known.append(held)

    def at(self, key: bytes, index: int) -> bytes | None:
        return next((held.value for held in reversed(self.objects.get(key, [])) if held.index <= index), None)

    def needed(self, key: bytes, floor: int) -> list[Held]:
        """Versions that a read at or above the floor could ask for, newest first; a deletion at it is not missed."""
        every = self.objects.get(key, [])
        found: list[Held] = []
        for place, held in enumerate(every):
            last = place + 1 == len(every)
            if held.value is None:
                needed = held.index > floor
            else:
                needed = last or every[place + 1].index > floor
            if needed:
                found.insert(0, held)
        return found


def check_listing(found: list[Held], history: History, key: bytes, floor: int, say: str) -> None:
    """The newest versions without a gap, and no fewer than are needed."""
    every = history.objects.get(key, [])[::-1]
    assert found == every[: len(found)], say
    needed = history.needed(key, floor)
    assert found[: len(needed)] == needed, say


def check_store(store: MemoryStore, histories: list[History], floor: int, say: str) -> None:
    """Once nothing waits to be removed: exactly what is needed, and a "D" for every deletion among it that is last."""
    keys = [change.key for change in store.items() if change.family is Family.VERSIONS]
    needed = [history.needed(key, floor) for history in histories for key in history.objects]
    assert sum(key[:1] == b"V" for key in keys) == sum(len(found) for found in needed), say
    assert sum(key[:1] == b"D" for key in keys) == sum(bool(f) and f[0].value is None for f in needed), say


def check_deletions(store: MemoryStore, say: str) -> None:
    """A "D" stands for an object without a head, and the version it names is there."""
    for key, place in store.scan(Family.VERSIONS, b"D", b"E"):
        assert store.get(Family(key[1]), key[2:]) is None, say
        assert store.get(Family.VERSIONS, b"V" + place + key[1:]) is not None, say


# --- versions.py alone ------------------------------------------------------------------------------


def walk_column(seed: int, entries: int = 200) -> None:
    draw = random.Random(seed)
    warm, cold = Column(), Column()
    history, floor = History(), 0
    late: dict[bytes, tuple[int, Iterator[versions.Version | None]]] = {}
    keys = [b"k", b"k\0", b"k\xff", b"l", b""]
    for index in range(1, entries + 1):
        present = {key: history.present(key) for key in keys}
        commands: list[list[tuple[bytes, bytes | None]]] = []
        for ordinal in range(draw.choice([1, 1, 2, 5])):
            command: list[tuple[bytes, bytes | None]] = []
            for key in draw.sample(keys, draw.choice([1, 1, 2])):
                for _ in range(draw.choice([1, 1, 1, 2, 3])):
                    gone = present[key] is not None and draw.random() < 0.45
                    present[key] = None if gone else draw.randbytes(draw.choice([0, 3]))
                    command.append((key, present[key]))
                history.put(key, Held(index, ordinal, present[key]))
            commands.append(command)
        raised = max(floor, draw.randrange(index)) if draw.random() < 0.25 else None
        at = draw.randrange(len(commands))
        if draw.random() < 0.5:
            cold.restart()
        removed = [column.entry(*commands, floor=raised, floor_at=at) for column in (warm, cold)]
        say = f"seed {seed}, entry {index}"
        assert warm.last_changes == cold.last_changes, say
        assert removed[0] == removed[1] <= KEYS_A_STEP, say
        floor = floor if raised is None else raised
        check_column(draw, warm, history, keys, floor, say)
        check_late(draw, warm, history, late, draw.choice(keys), say)
    while versions.backlog(warm.store):
        assert 0 < warm.raise_floor(floor) <= KEYS_A_STEP
    check_store(warm.store, [history], floor, f"seed {seed}, floor {floor}")


def check_late(
    draw: random.Random,
    column: Column,
    history: History,
    late: dict[bytes, tuple[int, Iterator[versions.Version | None]]],
    key: bytes,
    say: str,
) -> None:
    """A read that goes on a step at a time while entries are applied and the floor is raised."""
    if key not in late:
        index = draw.randint(versions.floor(column.store), column.index)
        late[key] = (index, versions.steps_to(column.store, Family.TREE, key, Index(index)))
    index, steps = late[key]
    try:
        found = next(steps)
    except HistoryGoneError:
        assert versions.floor(column.store) > index, say
    except StopIteration:
        assert history.at(key, index) is None, say
    else:
        if found is None:
            return
        assert found.value == history.at(key, index), say
    del late[key]


def check_column(
    draw: random.Random, column: Column, history: History, keys: list[bytes], floor: int, say: str
) -> None:
    assert versions.floor(column.store) == floor, say
    check_deletions(column.store, say)
    for key in keys:
        index = draw.randint(floor, column.index)
        assert column.at(key, index) == history.at(key, index), f"{say}: {key!r} at {index}"
        found = [Held(v.index, v.ordinal, v.value) for v in versions.newest(column.store, Family.TREE, key, 999)]
        check_listing(found, history, key, floor, f"{say}: {key!r}")
    if floor:
        with pytest.raises(HistoryGoneError):
            column.at(draw.choice(keys), draw.randrange(floor))


# --- the machine ------------------------------------------------------------------------------------


class MachineWalk:
    """Entries of hub commands, file commands and raises of the floor, in any order."""

    def __init__(self, seed: int) -> None:
        self.seed, self.draw = seed, random.Random(seed)
        self.warm, self.cold = Replica(), Replica()
        self.hub, self.tree, self.floor = History(), History(), 0
        self.seqs = {1: 1, 2: 1, 3: 1}
        founded = [replica.run(client(2), 1, ops.workspace().SerializeToString()) for replica in (self.warm, self.cold)]
        outcome = founded[0].runs[0].files[0]
        assert outcome is not None
        self.seqs[2] = 2
        self.workspace = outcome.inode_id
        self.note_tree()

    def say(self, what: str = "") -> str:
        return f"seed {self.seed}, entry {self.warm.index} {what}"

    def hub_commands(self, ordinal: int) -> list[bytes]:
        raws = []
        for number in range(self.draw.choice([1, 1, 2, 6])):
            key, place = self.draw.choice(NAMES), (self.warm.index + 1, ordinal + number)
            if self.draw.random() < 0.4:
                raws.append(hub_del(key))
                if self.hub.present(key) is not None:
                    self.hub.put(key, Held(*place, None))
            else:
                payload = b"%d" % self.draw.randrange(99)
                raws.append(hub_set(key, payload))
                self.hub.put(key, Held(*place, payload))
        return raws

    def file_commands(self) -> list[bytes]:
        raws = []
        for _ in range(self.draw.choice([1, 1, 2, 6])):
            name, other = self.draw.choice(NAMES), self.draw.choice(NAMES)
            inode_id = read_entry(self.warm.store, self.workspace, ops.ROOT, name) or bytes(15) + b"x"
            match self.draw.randrange(7):
                case 0 | 1:
                    op = ops.create(ops.ROOT, name)
                case 2:
                    op = ops.unlink(ops.ROOT, name)
                case 3:
                    op = ops.rename(ops.ROOT, name, ops.ROOT, other)
                case 4:
                    op = ops.set_xattr(inode_id, b"user." + other, self.draw.randbytes(4))
                case 5:
                    op = ops.remove_xattr(inode_id, b"user." + other)
                case _:
                    op = ops.write(inode_id, 100 * self.draw.randrange(40), self.draw.randbytes(9))
            raws.append(op.SerializeToString())
        return raws

    def entry(self) -> None:
        draw, index, ordinal = self.draw, self.warm.index + 1, 0
        groups = []
        kinds = draw.choices([1, 2, 3], [5, 5, 2], k=draw.choice([1, 2, 4]))
        for kind in kinds:
            if kind == 3:
                self.floor = max(self.floor, draw.randrange(index))
                raw = RaiseVersionsFloor(floor_index=self.floor)
                raws = [maintenance(raise_versions_floor=raw)]
            else:
                raws = self.hub_commands(ordinal) if kind == 1 else self.file_commands()
            message = submit(client(kind), self.seqs[kind], raws, workspace=self.workspace)
            scope = Scope("", "") if kind == 3 else SCOPE
            groups.append(group(message, principal="leader" if kind == 3 else "worker-7", scope=scope))
            self.seqs[kind] += len(raws)
            ordinal += len(raws)
        if draw.random() < 0.5:
            self.cold.restart()
        applied = [replica.apply(*groups, id_seed=index.to_bytes(16, "big")) for replica in (self.warm, self.cold)]
        assert applied[0].changes == applied[1].changes, self.say()
        assert applied[0].digest == applied[1].digest, self.say()
        self.note_tree()

    def note_tree(self) -> None:
        """What stands in the tree once the entry is written; ordinals of tree records are not looked at."""
        index = self.warm.index
        prefix = self.workspace
        pairs = self.warm.store.scan(Family.TREE, prefix, prefix_end(prefix))
        now = {key: body_of(value) for key, value in pairs if key[16:17] in VERSIONED}
        for key in [*now, *(key for key in self.tree.objects if key not in now)]:
            if self.tree.present(key) != now.get(key):
                self.tree.put(key, Held(index, 0, now.get(key)))

    def look(self) -> None:
        draw, store, last = self.draw, self.warm.store, self.warm.index
        assert queries.versions_floor(store) == self.floor, self.say()
        check_deletions(store, self.say())
        for key in NAMES:
            index = draw.randint(self.floor, last)
            found = queries.hub_versions(store, SCOPE, "metadata", key, Index(index), 1)
            value = found[0].payload if found and not found[0].deleted else None
            assert value == self.hub.at(key, index), self.say(f"{key!r} at {index}")
            every = queries.hub_versions(store, SCOPE, "metadata", key, None, 999)
            listed = [Held(v.raft_index, v.ordinal, None if v.deleted else v.payload) for v in every]
            check_listing(listed, self.hub, key, self.floor, self.say(repr(key)))
            numbers = [v.version for v in every]
            assert numbers == sorted(set(numbers), reverse=True), self.say()
        for key in draw.sample(sorted(self.tree.objects), min(8, len(self.tree.objects))):
            index = draw.randint(self.floor, last)
            past = versions.read_at(store, Family.TREE, key, Index(index))
            assert (past and past.value) == self.tree.at(key, index), self.say(f"{key.hex()} at {index}")
        if self.floor:
            with pytest.raises(HistoryGoneError):
                queries.hub_versions(store, SCOPE, "metadata", NAMES[0], Index(self.floor - 1), 1)

    def finish(self) -> None:
        """Everything below the last entry goes, and what is left is what stands."""
        self.floor = self.warm.index
        while queries.versions_floor(self.warm.store) < self.floor or queries.versions_backlog(self.warm.store):
            raw = maintenance(raise_versions_floor=RaiseVersionsFloor(floor_index=self.floor))
            message = submit(client(3), self.seqs[3], [raw])
            for replica in (self.warm, self.cold):
                replica.apply(group(message, principal="leader", scope=Scope("", "")))
            self.seqs[3] += 1
        check_store(self.warm.store, [self.hub, self.tree], self.floor, self.say())
        assert self.warm.store.same_pairs(self.cold.store), self.say()


def walk_machine(seed: int, entries: int = 150) -> None:
    walk = MachineWalk(seed)
    for _ in range(entries):
        walk.entry()
        walk.look()
    walk.finish()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "FLOOR_KEYS_MAX", KEYS_A_STEP)


@pytest.mark.req("D-18")
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("seed", SEEDS)
def test_versions_hold_what_the_model_says(seed: int) -> None:
    walk_column(seed)


@pytest.mark.req("D-18", "D-4", "CL-17")
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("seed", SEEDS)
def test_hub_keys_names_and_attributes_are_read_at_any_index(seed: int) -> None:
    walk_machine(seed)
