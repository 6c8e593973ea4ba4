"""Hazards against a second, naive model: the list of all operations, looked through from the newest back (WS-46).

Each walk runs two sites, one that keeps its window and one that loses it at random moments and must read it from the
op log again, which is trimmed as far as trimming goes. HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest

from hypercluster.pb.v1.workspace_command_pb2 import FileCommand, LogBatch
from hypercluster.state_machine.coordination.events import HazardEvent
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.workspace import hazards, oplog
from hypercluster.state_machine.workspace.hazards import CONCURRENT_RENAME, OVERLAPPING_WRITE, WRITE_AFTER_UNLINK
from hypercluster.state_machine.workspace.oplog import trim_log
from hypercluster.values import ClientId
from tests.unit.workspace import ops
from tests.unit.workspace.site import Sent, Site

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(12)
ENTRIES = 160
CLIENTS = [
    (ClientId(b"client--------%02d" % number), worker, agent)
    for number, (worker, agent) in enumerate([("h1", "ann"), ("h1", "ann"), ("h2", "ann"), ("h1", ""), ("h1", "bob")])
]
NAMES = [b"a", b"b", b"c", b"d"]
FOREVER = 1 << 70


@dataclass
class Done:
    """An accepted operation, as the model remembers it."""

    log_index: int
    client: bytes
    agent: tuple[str, str]
    kind: str
    inode: bytes
    start: int = 0
    end: int = 0
    names: frozenset[tuple[bytes, bytes]] = frozenset()


@dataclass
class Model:
    window: int
    done: list[Done] = field(default_factory=list)
    entries: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    removed_by: dict[bytes, int] = field(default_factory=dict)

    def accepted(self, sent: Sent, outcome: FileOutcome) -> tuple[int, int] | None:
        """Kind and index of the hazard this operation is told of."""
        file = sent.command.file
        kind = str(file.WhichOneof("op"))
        me = Done(outcome.log_index, sent.client, (sent.worker, sent.agent), kind, outcome.inode_id)
        orphan = outcome.inode_id in self.removed_by
        self._follow(me, file, outcome)
        base = file.base_index if file.HasField("base_index") else -1
        found: list[tuple[int, int]] = []
        for earlier in self.done:
            if me.log_index - earlier.log_index > self.window or earlier.log_index <= base:
                continue
            if earlier.client == me.client or (me.agent[1] and earlier.agent == me.agent):
                continue
            hazard = self._between(earlier, me, orphan, kind == "write" and file.write.append)
            if hazard:
                found.append((hazard, earlier.log_index))
        self.done.append(me)
        return min(found, key=lambda hit: (hit[0] != WRITE_AFTER_UNLINK, -hit[1]), default=None)

    def _follow(self, me: Done, file: FileCommand, outcome: FileOutcome) -> None:
        match me.kind:
            case "write":
                me.start, me.end = outcome.applied_offset, outcome.applied_offset + len(file.write.inline)
            case "truncate":
                me.start, me.end = file.truncate.size, FOREVER
            case "create" | "link":
                place = getattr(file, me.kind).place
                self.entries[place.directory, place.name] = me.inode
            case "unlink":
                self._remove((file.unlink.place.directory, file.unlink.place.name), me)
            case "rename":
                source, target = file.rename.source, file.rename.target
                here, there = (source.directory, source.name), (target.directory, target.name)
                me.names = frozenset({here, there})
                if self.entries.get(there) == me.inode:
                    return
                if there in self.entries:
                    self._remove(there, me)
                del self.entries[here]
                self.entries[there] = me.inode

    def _remove(self, place: tuple[bytes, bytes], me: Done) -> None:
        inode = self.entries.pop(place)
        if inode not in self.entries.values():
            self.removed_by[inode] = me.log_index

    def _between(self, earlier: Done, me: Done, orphan: bool, append: bool) -> int:
        content = {"write", "truncate"}
        if me.kind in content and (me.kind == "truncate" or me.end > me.start):
            if orphan and self.removed_by[me.inode] == earlier.log_index:
                return WRITE_AFTER_UNLINK
            overlap = max(earlier.start, me.start) < min(earlier.end, me.end)
            if earlier.kind in content and earlier.inode == me.inode and overlap and not append:
                return OVERLAPPING_WRITE
        if me.kind == earlier.kind == "rename" and (me.inode == earlier.inode or me.names & earlier.names):
            return CONCURRENT_RENAME
        return 0


class Walk:
    def __init__(self, seed: int, window: int) -> None:
        self.seed, self.draw, self.model = seed, random.Random(seed), Model(window)
        self.warm, self.cold = Site(seed=seed), Site(seed=seed)
        for site in (self.warm, self.cold):
            site.found()
            site.directory(b"sub")
        self.model.done.clear()
        self.directories = [ops.ROOT, self.warm.file_id(b"sub")]
        self.inodes: list[bytes] = []
        self.hazards: dict[int, int] = {}

    def place(self) -> tuple[bytes, bytes]:
        return self.draw.choice(self.directories), self.draw.choice(NAMES)

    def sent(self) -> Sent:
        draw = self.draw
        inode = draw.choice(self.inodes[-6:]) if self.inodes else ops.ROOT
        extra = {}
        if draw.random() < 0.25:
            extra["base_index"] = max(0, self.warm.header.log_index - draw.randrange(12))
        command = draw.choices(
            [
                lambda: ops.create(*self.place()),
                lambda: ops.link(inode, *self.place()),
                lambda: ops.unlink(*self.place()),
                lambda: ops.rename(*self.place(), *self.place(), **extra),
                lambda: ops.write(inode, draw.randrange(60), bytes(draw.choice([0, 1, 10, 40])), **extra),
                lambda: ops.append(inode, bytes(draw.choice([0, 9])), **extra),
                lambda: ops.truncate(inode, draw.randrange(80), **extra),
                lambda: ops.chmod(inode, draw.randrange(0o1000)),
            ],
            [4, 2, 3, 5, 8, 4, 3, 5],
        )[0]()
        return Sent(command, *draw.choice(CLIENTS))

    def step(self) -> None:
        draw = self.draw
        if draw.random() < 0.3:
            self.cold.restart()
        if draw.random() < 0.25:
            below = self.warm.header.log_index + 1 - draw.choice([0, 0, 3, 20])
            for site in (self.warm, self.cold):
                trim_log(site.overlay, site.workspace_id, below)
                site.store.write(site.overlay.take_changes())
        sent = [self.sent() for _ in range(draw.choice([1, 1, 2, 6]))]
        outcomes = self.warm.mixed(*sent)
        where = f"seed {self.seed}, entry {self.warm.index}"
        assert self.cold.mixed(*sent) == outcomes, where
        assert self.cold.last_changes == self.warm.last_changes, where
        assert self.cold.events == self.warm.events, where
        told = []
        for one, outcome in zip(sent, outcomes, strict=True):
            if outcome.reason:
                assert outcome.hazard is None
                continue
            if one.command.file.HasField("create"):
                self.inodes.append(outcome.inode_id)
            expected = self.model.accepted(one, outcome)
            assert outcome.hazard == expected, f"{where}: {one.command} as {outcome.log_index}"
            if expected is not None:
                self.hazards[expected[0]] = self.hazards.get(expected[0], 0) + 1
                told.append((*expected, outcome.log_index, one.worker, one.agent))
        events = [event for event in self.warm.events if isinstance(event, HazardEvent)]
        assert [(e.kind, e.conflicting_log_index, e.log_index, e.worker, e.agent) for e in events] == told, where
        for record in LogBatch.FromString(self.warm.batches[-1]).records if told else ():
            hazard = next((outcome.hazard for outcome in outcomes if outcome.log_index == record.log_index), None)
            assert record.HasField("hazard") == (hazard is not None), where
            if hazard is not None:
                assert (record.hazard.kind, record.hazard.conflicting_log_index) == hazard, where


@pytest.mark.req("WS-46", "D-4")
@pytest.mark.parametrize("window", [7, 30])
@pytest.mark.parametrize("seed", SEEDS)
def test_hazards_are_what_a_look_through_the_whole_log_finds(
    seed: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With short windows, so that their ends are met all the time."""
    monkeypatch.setattr(hazards, "HAZARD_WINDOW_OPS", window)
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", window)
    walk = Walk(seed, window)
    for _ in range(ENTRIES):
        walk.step()
    assert set(walk.hazards) == {OVERLAPPING_WRITE, CONCURRENT_RENAME, WRITE_AFTER_UNLINK}, walk.hazards
