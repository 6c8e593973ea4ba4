"""Reservations against a second, naive model: every path of the tree walked from its root, every rule looked up in a
list (WS-45); and the names of inodes kept backwards against the entries there are.

Each walk runs two sites, one that loses its caches at random moments. HYPERCLUSTER_SEED=n replays one seed.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest

from hypercluster.limits import NAMES_OF_INODE_KEPT
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine.coordination.claiming import read_settings
from hypercluster.state_machine.coordination.reservations import list_reservations, live_reservations
from hypercluster.state_machine.outcome import ERRNO, FENCED, FileOutcome
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.errnos import EACCES, EPERM
from hypercluster.state_machine.workspace.paths import best_path, names_of
from hypercluster.state_machine.workspace.records import ENTRY, INODE, KIND_DIRECTORY, body_of, decode_inode, prefix_end
from hypercluster.values import ClientId
from tests.unit.coordination.test_patterns import covers
from tests.unit.workspace import ops
from tests.unit.workspace.site import Sent, Site

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(10)
ENTRIES = 420
NAMES = [b"a", b"b", b"c.py", b"d.py"]
PATTERNS = [b"a", b"a/**", b"**/*.py", b"*", b"?/?", b"b/**/a", b"**", b"c.py/*"]
CLIENTS = [(ClientId(b"client--------%02d" % n), f"h{n % 2}", "ann" if n < 4 else "bob") for n in range(5)]
MS = 1_000_000


@dataclass
class Reserved:
    owner: tuple[str, str]
    pattern: bytes
    exclusive: bool
    expires_ns: int


class Walk:
    def __init__(self, seed: int) -> None:
        self.seed, self.draw = seed, random.Random(seed)
        self.warm, self.cold = Site(seed=seed), Site(seed=seed)
        for site in (self.warm, self.cold):
            site.found()
        self.reserved: dict[int, Reserved] = {}
        self.enforced = False
        self.seen: set[str] = set()

    # --- the tree, by looking at all of it ----------------------------------------------------------

    def paths(self) -> dict[bytes, list[tuple[bytes, ...]]]:
        """Every path of every inode that the root reaches."""
        below: dict[bytes, list[tuple[bytes, bytes]]] = {}
        prefix = self.warm.workspace_id + ENTRY
        for key, record in self.warm.store.scan(Family.TREE, prefix, prefix_end(prefix)):
            place = key[len(prefix) :]
            below.setdefault(place[:16], []).append((place[16:], body_of(record)[:16]))
        found: dict[bytes, list[tuple[bytes, ...]]] = {ops.ROOT: [()]}
        waiting = [ops.ROOT]
        while waiting:
            directory = waiting.pop()
            for name, inode_id in below.get(directory, []):
                found.setdefault(inode_id, []).append((*found[directory][0], name))
                waiting.append(inode_id)
        return found

    def inodes(self, directories: bool) -> list[bytes]:
        prefix = self.warm.workspace_id + INODE
        found = []
        for key, record in self.warm.store.scan(Family.TREE, prefix, prefix_end(prefix)):
            inode = decode_inode(key[len(prefix) :], record)
            if (inode.kind == KIND_DIRECTORY) == directories:
                found.append(inode.inode_id)
        return found

    # --- one entry ----------------------------------------------------------------------------------

    def file_command(self) -> Command:
        draw = self.draw
        directory = draw.choice(self.inodes(directories=True))
        other = draw.choice(self.inodes(directories=True))
        file = draw.choice(self.inodes(directories=False) or [ops.ROOT])
        name, new = draw.choice(NAMES), draw.choice(NAMES)
        command = draw.choice(
            [
                lambda: ops.create(directory, name),
                lambda: ops.mkdir(directory, name),
                lambda: ops.mkdir(directory, name),
                lambda: ops.link(file, directory, name),
                lambda: ops.unlink(directory, name),
                lambda: ops.rmdir(directory, name),
                lambda: ops.rename(directory, name, other, new),
                lambda: ops.rename(directory, name, other, new),
                lambda: ops.write(file, 0, b"x"),
                lambda: ops.chmod(file, 0o600),
                lambda: ops.sync(file),
            ]
        )()
        newest = [*self.reserved][-12:]
        if newest and draw.random() < 0.7:
            ops.under(command, *draw.choices(newest, k=draw.randint(1, 4)))
        return command

    def own_paths(self, command: Command) -> list[tuple[bytes, ...]]:
        file, known = command.file, self.paths()
        kind = str(file.WhichOneof("op"))
        op = getattr(file, kind)
        if kind in {"write", "chmod", "sync"}:
            return known.get(op.inode_id, [])
        places = [op.source, op.target] if kind == "rename" else [op.place]
        return [(*known[place.directory][0], place.name) for place in places if place.directory in known]

    def live(self, stamp_ns: int) -> dict[int, Reserved]:
        return {key: found for key, found in self.reserved.items() if found.expires_ns > stamp_ns}

    def covering(self, found: dict[int, Reserved], path: tuple[bytes, ...]) -> list[int]:
        return [key for key, one in found.items() if covers(one.pattern.split(b"/"), list(path))]

    def step(self) -> None:
        draw = self.draw
        if draw.random() < 0.3:
            self.cold.restart()
        if draw.random() < 0.2:
            skipped = draw.choice([1, 500, 2_000]) * MS
            self.warm.stamp_ns += skipped
            self.cold.stamp_ns += skipped
        client, worker, agent = draw.choice(CLIENTS)
        owner, stamp_ns = (worker, agent), self.warm.stamp_ns + 1
        live = self.live(stamp_ns)
        where = f"seed {self.seed}, entry {self.warm.index + 1}"
        choice = draw.random()
        if choice < 0.75:
            command = self.file_command()
            paths, named = self.own_paths(command), command.file.reservation_ids
            exclusive = {key: one for key, one in live.items() if one.exclusive}
            oldest = [min(self.covering(exclusive, path), default=0) for path in paths]
            denied = any(key and live[key].owner != owner for key in oldest)
            denied = denied and self.enforced and not command.file.HasField("sync")
            mine = {key: one for key, one in live.items() if key in named and one.owner == owner}
            covered = any(self.covering(mine, path) for path in paths) and not command.file.HasField("sync")
            outcome = self.both(Sent(command, client, worker, agent), where)
            assert (outcome.errno == EACCES) == denied, f"{where}: {command} by {owner} on {paths}"
            self.seen.add("denied" if denied else "allowed")
            if not outcome.reason:
                record = LogBatch.FromString(self.warm.batches[-1]).records[-1]
                assert record.reserved == covered, f"{where}: {command} by {owner} on {paths}"
                self.seen.add("reserved" if covered else "unreserved")
            return
        if choice < 0.85:
            pattern, exclusive_too = draw.choice(PATTERNS), draw.random() < 0.7
            ttl_ms = draw.choice([1_000, 9_000])
            made = self.both(Sent(ops.reserve(pattern, exclusive_too, ttl_ms), client, worker, agent), where)
            assert made.lock is not None and made.lock.lock_id == stamp_ns, where
            self.reserved[stamp_ns] = Reserved(owner, pattern, exclusive_too, stamp_ns + ttl_ms * MS)
        elif choice < 0.95 and self.reserved:
            key = draw.choice([*self.reserved])
            renews = draw.random() < 0.6
            command = ops.renew(key, 2_000) if renews else ops.unreserve(key)
            outcome = self.both(Sent(command, client, worker, agent), where)
            expected = (FENCED, 0) if key not in live else (0, 0) if live[key].owner == owner else (ERRNO, EPERM)
            assert (outcome.reason, outcome.errno) == expected, where
            self.seen.add(f"ended {expected}")
            if not outcome.reason and renews:
                self.reserved[key].expires_ns = stamp_ns + 2_000 * MS
            elif not outcome.reason:
                del self.reserved[key]
        else:
            self.enforced = draw.random() < 0.5
            self.both(Sent(ops.workspace_set(enforce_reservations=self.enforced), client, worker, agent), where)

    def both(self, sent: Sent, where: str) -> FileOutcome:
        outcomes = self.warm.mixed(sent)
        assert self.cold.mixed(sent) == outcomes, where
        assert self.cold.last_changes == self.warm.last_changes, where
        return outcomes[0]

    def check_state(self) -> None:
        store, workspace_id, stamp_ns = self.warm.store, self.warm.workspace_id, self.warm.stamp_ns
        assert {found.reservation_id for found in live_reservations(store, workspace_id, stamp_ns)} == set(
            self.live(stamp_ns)
        )
        assert len(list_reservations(store, workspace_id)) >= len(self.live(stamp_ns))
        settings = read_settings(store, workspace_id)
        assert settings is not None and settings.enforce_reservations == self.enforced
        entries: dict[bytes, set[tuple[bytes, bytes]]] = {}
        prefix = workspace_id + ENTRY
        for key, record in store.scan(Family.TREE, prefix, prefix_end(prefix)):
            place = key[len(prefix) :]
            entries.setdefault(body_of(record)[:16], set()).add((place[:16], place[16:]))
        for inode_id in [*self.inodes(directories=True), *self.inodes(directories=False)]:
            kept = names_of(store, workspace_id, inode_id)
            assert len(kept) == len(set(kept))
            names = entries.get(inode_id, set())
            assert set(kept) == names or (len(names) > NAMES_OF_INODE_KEPT and set(kept) < names), f"seed {self.seed}"
        for inode_id, paths in self.paths().items():
            assert tuple(best_path(store, workspace_id, inode_id).split(b"/")) in paths or not paths[0]


def walk_through(seed: int) -> Walk:
    walk = Walk(seed)
    for _ in range(ENTRIES):
        walk.step()
    walk.check_state()
    return walk


@pytest.mark.req("WS-45", "D-4", "D-6")
@pytest.mark.parametrize("seed", SEEDS)
def test_reservations_do_what_the_specification_says(seed: int) -> None:
    walk = walk_through(seed)
    assert walk.seen >= {"denied", "allowed", "reserved", "unreserved", f"ended {(0, 0)}"}, walk.seen
