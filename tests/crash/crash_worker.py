"""Drivers of what a worker keeps on its host, for crash points (CH-7): the materialised directory, and the live tree.

Owns: a mirror and a live tree that follow a random workspace, are closed, opened and built anew; and the checks.
Never: a cluster: the workspace is a state machine in this process, and its chunks are fetched from there.
Invariants: the workspace is a function of the seed and the number of steps that were told, so the check has the one
that the killed process saw: what follows it afterwards must come to the same names, bytes and root.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.replica import Replica, place_prefix
from hypercluster.client.live.shelf import Shelf
from hypercluster.client.live.store import TreeStore
from hypercluster.client.worker.state import WorkerStatus, read_status, write_status
from hypercluster.client.worker.tree_view import TreeView
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.transfer import export_records, verify_tree
from tests.unit.client.worker.mirroring import HISTORY, Mirroring
from tests.unit.client.worker.random_tree import RandomTree

Tell = Callable[[str], None]

MODES: Final = (0o644, 0o400, 0o4755)
FIRST_STEPS: Final = 12
TURNS_A_LIFE: Final = 4
STEPS_A_TURN: Final = 5
LIVES_A_BUILD: Final = 3


def grown(seed: int, told: Sequence[str]) -> RandomTree:
    """The workspace as of the last step that was told."""
    tree = RandomTree(seed, MODES)
    for line in told:
        if line == "step":
            tree.step()
    return tree


def _step(tree: RandomTree, count: int, tell: Tell) -> None:
    for _ in range(count):
        tell("step")  # before anybody can follow it
        tree.step()


# --- the materialised directory -------------------------------------------------------------------


def mirror_for_ever(directory: Path, seed: int, tell: Tell) -> None:
    """Follows, is opened again, is built anew. Tells "seed N", "step", and "applied LOG_INDEX" of a mirror."""
    tell(f"seed {seed}")
    tree, rng = RandomTree(seed, MODES), random.Random(seed)
    _step(tree, FIRST_STEPS, tell)
    while True:
        mirroring = Mirroring(tree, directory, rng)
        if rng.random() < 1 / LIVES_A_BUILD:
            tell("rebuilds")
            asyncio.run(mirroring.bootstrap())
        asyncio.run(_follow(mirroring, rng, tell))
        mirroring.mirror.close()


async def _follow(mirroring: Mirroring, rng: random.Random, tell: Tell) -> None:
    await mirroring.recover()
    tell(f"applied {mirroring.mirror.applied_index}")
    for _ in range(TURNS_A_LIFE):
        _step(mirroring.tree, STEPS_A_TURN, tell)
        await mirroring.follow(rng.choice((3, 30)))
        tell(f"applied {mirroring.mirror.applied_index}")
        write_status(mirroring.base / "state", _status(mirroring.mirror.applied_index))


def _status(applied_index: int) -> WorkerStatus:
    return WorkerStatus("w", "worker-1", "mirror", applied_index=applied_index)


def check_mirror(directory: Path, told: Sequence[str]) -> None:
    """The index is not behind what was told, and what is followed from there is the workspace, byte for byte."""
    tree = grown(_seed_of(told), told)
    promised = 0
    for line in told:
        promised = 0 if line == "rebuilds" else int(line.split()[1]) if line.startswith("applied") else promised
    mirroring = Mirroring(tree, directory, random.Random(1))
    assert mirroring.mirror.applied_index >= promised
    status = read_status(directory / "state")
    assert status is None or int(str(status["applied_index"])) <= tree.site.header.log_index
    asyncio.run(_check_follows(mirroring))
    mirroring.mirror.close()


async def _check_follows(mirroring: Mirroring) -> None:
    await mirroring.recover()
    if mirroring.mirror.applied_index == mirroring.tree.site.header.log_index:
        mirroring.check("as it was left")
    for _ in range(2):
        await mirroring.follow(batch_max=7)
        mirroring.check("after it was opened again")
        mirroring.tree.step()


def _seed_of(told: Sequence[str]) -> int:
    return int(told[0].split()[1])


# --- the live tree --------------------------------------------------------------------------------


class Live:
    """A shelf, a cache and a replica, as the follower holds them."""

    def __init__(self, directory: Path, tree: RandomTree) -> None:
        self.tree = tree
        self.shelf = Shelf(str(directory / "live"), tree.site.workspace_id)
        self.cache = ChunkCache(self.shelf.chunks_path)
        store = self.shelf.open_newest()
        self.replica = None if store is None else self._replica(store)

    def _replica(self, store: TreeStore) -> Replica:
        return Replica(store, self.cache, self.tree.site.workspace_id)

    def build(self) -> None:
        """Of what the workspace is now; the tree before goes once this one stands."""
        site = self.tree.site
        records = [(int(c.family), c.key, c.value or b"") for c in export_records(site.store, site.workspace_id)]
        building = self.shelf.build(HISTORY)
        for start in range(0, len(records), 50):
            building.add(records[start : start + 50])
        store = building.finish(site.header.log_index, site.header.root)
        self.shelf.remove_others(store)
        if self.replica is not None:
            self.replica.close()
        self.replica = self._replica(store)

    def follow(self) -> Replica:
        replica = self.replica
        assert replica is not None
        records = [found for found in self.tree.records() if found.log_index > replica.log_index]
        while records:
            done = replica.apply([(record, None) for record in records], turn_s=1.0)
            assert not done.problem, done.problem
            records = records[len(done.applied) :]
        return replica

    def flush(self) -> None:
        """Chunks first, as the follower does."""
        self.cache.flush()
        assert self.replica is not None
        self.replica.flush()

    def close(self) -> None:
        if self.replica is not None:
            self.replica.close()
        self.cache.close()
        self.shelf.close()


@contextlib.contextmanager
def opened(directory: Path, tree: RandomTree) -> Iterator[Live]:
    live = Live(directory, tree)
    try:
        yield live
    finally:
        live.close()


def live_for_ever(directory: Path, seed: int, tell: Tell) -> None:
    """Tells "seed N", "step", and "durable LOG_INDEX" of a tree that stands."""
    tell(f"seed {seed}")
    tree, rng = RandomTree(seed, MODES), random.Random(seed)
    _step(tree, FIRST_STEPS, tell)
    while True:
        with opened(directory, tree) as live:
            if live.replica is None or rng.random() < 1 / LIVES_A_BUILD:
                live.build()
            for _ in range(TURNS_A_LIFE):
                _step(tree, STEPS_A_TURN, tell)
                live.cache.put({h: tree.site.chunks[h] for h in list(tree.site.chunks)[-20:]})
                live.follow()
                live.flush()
                assert live.replica is not None
                tell(f"durable {live.replica.durable_index}")


def check_live(directory: Path, told: Sequence[str]) -> None:
    """One tree stands, no older than what was told, whole as of its own index, and goes on from there."""
    tree = grown(_seed_of(told), told)
    durable = max((int(line.split()[1]) for line in told if line.startswith("durable")), default=0)
    with opened(directory, tree) as live:
        if live.replica is None:
            assert not durable, "the tree is gone"
            live.build()
        _check_tree(live, durable)
        live.follow()
        live.flush()
        _check_tree(live, tree.site.header.log_index)
    with opened(directory, tree) as live:
        _check_tree(live, tree.site.header.log_index)
        assert len(live.shelf.numbers()) == 1


def _check_tree(live: Live, least: int) -> None:
    replica, site = live.replica, live.tree.site
    assert replica is not None
    assert replica.log_index >= least
    roots = {record.log_index: record.root for record in live.tree.records()}
    assert replica.root == roots[replica.log_index]
    checked = verify_tree(replica.store, site.workspace_id)
    assert checked is not None
    assert checked.sound
    assert checked.stored_root == replica.root
    prefix = place_prefix(site.workspace_id, b"")
    places = {key for key, _ in replica.store.scan(Family.META, prefix, prefix_end(prefix))}
    view = TreeView(replica.store, site.workspace_id)
    expected = {prefix + e.inode_id + directory + name for directory, name, e in view.all_entries()}
    assert places == expected, f"{len(expected - places)} entries lack their places"
    for chunk_hash, content in site.chunks.items():
        assert live.cache.get(chunk_hash) in (None, content)
