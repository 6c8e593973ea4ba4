"""Random writes, snapshots, trims, waits and collections against a model that remembers every tree there was.

The model knows, for each log_index, which chunks the extents of the tree named, and nothing of births or counts. After
each entry no chunk may be absent that the head, a kept snapshot or a tree within the replay window holds, or that was
sent in the last minute. In the end, when snapshots are dropped and the window has passed, nothing else may be left.
HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from blake3 import blake3

from hypercluster.limits import CHUNK_PIN_MS, LAG_MAX_MS
from hypercluster.pb.v1.command_pb2 import TrimOplog
from hypercluster.pb.v1.coordination_command_pb2 import Reap
from hypercluster.state_machine.outcome import CHUNKS_MISSING, OK
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace import chunks, oplog, recent, retention
from hypercluster.state_machine.workspace.chunks import ChunkLedger, present_chunks, read_account, read_presence
from hypercluster.state_machine.workspace.content import ContentReader
from hypercluster.state_machine.workspace.oplog import log_floor
from hypercluster.state_machine.workspace.orphans import list_orphans
from hypercluster.state_machine.workspace.queries import list_directory
from hypercluster.state_machine.workspace.records import INODE, KIND_FILE, RECENT, RECLAIM, decode_inode, prefix_end
from hypercluster.state_machine.workspace.snapshots import list_snapshots
from tests.properties.test_workspace_model import dump
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(8)
ENTRIES = 260
LAG_OPS = 40
MS = 1_000_000


class Walk:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.site, self.cold = Site(seed=seed), Site(seed=seed)
        for site in (self.site, self.cold):
            site.found()
        self.contents = [self.draw.randbytes(length) for length in (3, 40, 300, 9_000, 65_536)]
        self.trees: dict[int, set[bytes]] = {0: set()}
        self.marked: dict[int, set[bytes]] = {}  # as they were when their snapshot was taken
        self.ended_ns: dict[int, int] = {}  # when the tree was replaced by the next one
        self.sent_ns: dict[bytes, int] = {}
        self.names = [b"a", b"b", b"c"]

    def say(self, what: str) -> str:
        return f"seed {self.seed}, entry {self.site.index}: {what}"

    # --- steps ------------------------------------------------------------------------------------

    def step(self) -> None:
        draw = self.draw
        kind = draw.choices(
            ["file", "put", "mark", "drop", "collect", "trim", "wait", "reap"], [14, 2, 3, 1, 4, 1, 3, 2]
        )[0]
        getattr(self, f"do_{kind}")()
        if draw.random() < 0.3:
            self.cold.restart()
        self.look()

    def both(self, call: Callable[[Site], object]) -> None:
        assert call(self.site) == call(self.cold), self.say("a restart changed a verdict")

    def do_file(self) -> None:
        draw = self.draw
        name = draw.choice(self.names)
        inode = next((i for n, i in self.files().items() if n == name), None)
        if inode is None:
            self.both(lambda site: site.one(ops.create(ops.ROOT, name)))
            return
        content = draw.choice(self.contents)
        offset = draw.choice([0, 0, 100, 9_000, 30_000])
        match draw.choice(["write", "append", "pieces", "truncate", "unlink"]):
            case "write":
                command = ops.write(inode, offset, content[:8_000])
            case "append":
                command = ops.append(inode, content[:700])
            case "pieces":
                found = blake3(content).digest()
                command = ops.write_pieces(inode, offset, [(found, 0, len(content)), (found, 1, 2)])
            case "truncate":
                command = ops.truncate(inode, draw.choice([0, 0, 150, 10_000]))
            case _:
                command = ops.unlink(ops.ROOT, name)
        self.both(lambda site: site.one(command))

    def do_put(self) -> None:
        content = self.draw.choice(self.contents)
        self.both(lambda site: site.one(ops.chunk_put(content)))
        self.sent_ns[blake3(content).digest()] = self.site.stamp_ns

    def do_mark(self) -> None:
        kept = self.snapshots()
        self.both(lambda site: site.mark(kept[-1] if kept else 0))
        for index in self.snapshots():
            self.marked.setdefault(index, self.extents())

    def do_reap(self) -> None:
        due = list_orphans(self.site.store, self.site.workspace_id)
        reap = Reap(workspace_id=self.site.workspace_id, inode_ids=due)
        self.both(lambda site: site.maintain(reap=reap))
        # Nobody who replays from here asks for what has no name; a snapshot that was taken before holds it.
        self.trees[self.site.header.log_index] = self.extents()

    def do_drop(self) -> None:
        kept = self.snapshots()
        if kept:
            which = self.draw.choice(kept)
            self.both(lambda site: site.drop(which))

    def do_collect(self) -> None:
        hashes = [found for found, _ in present_chunks(self.site.store, self.site.workspace_id)]
        self.draw.shuffle(hashes)
        self.both(lambda site: site.collect(hashes))

    def do_trim(self) -> None:
        below = self.draw.randint(0, self.site.header.log_index)
        trim = TrimOplog(workspace_id=self.site.workspace_id, below_log_index=below)
        self.both(lambda site: site.maintain(trim_oplog=trim))

    def do_wait(self) -> None:
        span_ms = self.draw.choice([1_000, CHUNK_PIN_MS, LAG_MAX_MS // 3, LAG_MAX_MS])
        for site in (self.site, self.cold):
            site.stamp_ns += span_ms * MS

    # --- what there is ------------------------------------------------------------------------------

    def files(self) -> dict[bytes, bytes]:
        listing = list_directory(self.site.store, self.site.workspace_id, ops.ROOT, b"", 100)
        return {name: inode.inode_id for name, inode in listing.entries}

    def snapshots(self) -> list[int]:
        return [found.log_index for found in list_snapshots(self.site.store, self.site.workspace_id)]

    def extents(self) -> set[bytes]:
        """Chunks that the extents of the present tree and of orphans name."""
        store, workspace_id = self.site.store, self.site.workspace_id
        prefix = workspace_id + INODE
        found: set[bytes] = set()
        for key, record in store.scan(Family.TREE, prefix, prefix_end(prefix)):
            inode = decode_inode(key[len(prefix) :], record)
            if inode.kind == KIND_FILE:
                found.update(extent.chunk_hash for extent in ContentReader(store, workspace_id, inode).extents())
        return found

    def look(self) -> None:
        site = self.site
        head = site.header.log_index
        if head not in self.trees:
            self.ended_ns[head - 1] = site.stamp_ns
            self.trees[head] = self.extents()
        floor = log_floor(site.store, site.workspace_id) or 1
        needed: dict[bytes, str] = dict.fromkeys(self.trees[head], "the head")
        for index in self.snapshots():
            needed |= dict.fromkeys(self.marked[index], f"snapshot {index}")
        for index, ended_ns in self.ended_ns.items():
            # A worker that stands at this tree goes on with the operation after it.
            if index + 1 >= floor and site.stamp_ns < ended_ns + LAG_MAX_MS * MS and index + 1 + LAG_OPS > head:
                needed |= dict.fromkeys(self.trees[index], f"the window, tree {index}")
        for chunk_hash, sent_ns in self.sent_ns.items():
            if site.stamp_ns < sent_ns + CHUNK_PIN_MS * MS:
                needed[chunk_hash] = "its sender"
        for chunk_hash, why in needed.items():
            found = read_presence(site.store, site.workspace_id, chunk_hash)
            assert found is not None, self.say(f"{chunk_hash.hex()[:8]} is lost to {why}")
            assert chunk_hash in site.chunks
        held = dict(present_chunks(site.store, site.workspace_id))
        sizes = len(held), sum(presence.length for presence in held.values())
        assert (site.header.chunk_count, site.header.chunk_bytes) == sizes, self.say("counts")
        account = read_account(site.store, "acme")
        assert (account.chunk_count, account.chunk_bytes) == sizes, self.say("the organisation's account")

    def end(self) -> None:
        """Nothing is left but what the head and the coalescing hold."""
        site = self.site
        for index in self.snapshots():
            self.both(lambda site, index=index: site.drop(index))  # type: ignore[misc]
        prefix = site.workspace_id + RECLAIM
        directory = site.done(ops.mkdir(ops.ROOT, b"d")).inode_id
        self.cold.done(ops.mkdir(ops.ROOT, b"d"))
        while list(site.store.scan(Family.TREE, prefix, prefix_end(prefix))):
            self.both(lambda site: site.done(ops.sync(directory)))  # each empties a few pages
        for one in (site, self.cold):
            one.stamp_ns += 2 * LAG_MAX_MS * MS
        self.look()
        while site.collect([found for found, _ in present_chunks(site.store, site.workspace_id)]).version:
            pass
        recents = site.workspace_id + RECENT
        kept = {key[len(recents) :] for key, _ in site.store.scan(Family.TREE, recents, prefix_end(recents))}
        left = {found for found, _ in present_chunks(site.store, site.workspace_id)}
        needed = self.extents() | (kept & left)
        assert left == needed, self.say(f"{len(left - needed)} chunks that nothing reaches are left")


def walk_through(seed: int, entries: int = ENTRIES) -> None:
    walk = Walk(seed)
    for _ in range(entries):
        walk.step()
    assert dump(walk.site) == dump(walk.cold), walk.say("a restart changed the state")
    walk.end()


def walk_many(count: int) -> None:
    for seed in range(count):
        walk_through(seed)


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT_CHUNKS_MAX", 3)
    monkeypatch.setattr(retention, "LAG_MAX_OPS", LAG_OPS)
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 3)  # which trimming leaves alone


@pytest.mark.req("WS-33", "WS-54", "D-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_reachable_is_collected_and_all_else_is(seed: int) -> None:
    walk_through(seed)


Break = Callable[[pytest.MonkeyPatch], None]


def _never_widens(patch: pytest.MonkeyPatch) -> None:
    """A chunk that comes back begins a new span, so snapshots of its first life do not keep it."""
    settle = ChunkLedger.settle

    def broken(self: ChunkLedger, found: bytes, presence: chunks.Presence | None, change: int, *rest: int) -> None:
        if presence is not None and not presence.references:
            presence = presence._replace(born=0)
        settle(self, found, presence, change, *rest)

    patch.setattr(ChunkLedger, "settle", broken)


@pytest.mark.parametrize(
    "broken",
    [
        lambda patch: patch.setattr(retention.Keep, "_in_snapshot", lambda *_: False),
        lambda patch: patch.setattr(retention.Keep, "_in_window", lambda *_: False),
        lambda patch: patch.setattr(retention, "CHUNK_PIN_MS", 0),
        lambda patch: patch.setattr(retention.Keep, "reaches", lambda *_: True),
        _never_widens,
    ],
    ids=[
        "ignores snapshots",
        "ignores the window",
        "ignores the pin",
        "keeps all",
        "forgets the first life",
    ],
)
def test_a_broken_collection_is_found(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known-bad builds: each must be seen within a few seeds."""
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        walk_many(16)


@pytest.mark.req("WS-32", "WS-54")
def test_what_was_collected_is_missing_until_it_is_sent_again() -> None:
    walk = Walk(1)
    content = walk.contents[4]
    site = walk.site
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(content))
    site.stamp_ns += CHUNK_PIN_MS * MS
    found = blake3(content).digest()
    assert site.collect([found]) == (OK, 1)
    assert site.one(ops.write_pieces(inode_id, 0, [(found, 0, 9)])).reason == CHUNKS_MISSING
    site.done(ops.chunk_put(content))
    assert site.done(ops.write_pieces(inode_id, 0, [(found, 0, 9)])).reason == OK
