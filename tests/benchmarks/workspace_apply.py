"""What file operations cost in apply, on one core: `python -m tests.benchmarks.workspace_apply`.

CPU time, as machines are shared. Judgement, records, versions, op log record and root included; parsing and digest of
the entry are not. Budgets: one Merkle update below 10 µs at p99 up to 100 000 entries (WS-35), a small-file operation
below 40 µs, an operation on a file of more than 1 000 chunks below 100 µs, a proof below 1 ms; opening a workspace of a
million files must leave room in a restart of 5 s (`--files 1000000`, over RocksDB).
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Callable

from blake3 import blake3

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, MemoryStore, Store
from hypercluster.state_machine.workspace import flush_log, judge
from hypercluster.state_machine.workspace.merkle import MerkleTree
from hypercluster.state_machine.workspace.proof_trees import ProofTrees
from hypercluster.state_machine.workspace.proofs import open_tree, prove_path, verify_path
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.state import open_workspace
from hypercluster.storage.rocks import FlushState, RocksStore
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, Term
from tests.unit.workspace import ops

BATCH = 100


class Bench:
    """A workspace driven as the machine does, with the time of each judgement."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.overlay = Overlay(store)
        self.effects = Effects()
        self.context = OpContext(
            overlay=self.overlay,
            effects=self.effects,
            index=Index(0),
            term=Term(1),
            ordinal=0,
            stamp_ns=Nanos(1_800_000_000_000_000_000),
            id_seed=b"",
            principal="bench",
            scope=Scope("acme", "bench"),
            worker="worker-1",
            client_id=ClientId(b"client--------01"),
            seq=Seq(0),
            workspace_id=b"",
            origin=b"",
        )
        self.flush_us: list[float] = []

    def entry(self, commands: list[Command], spent: list[float] | None = None) -> list[bytes]:
        """Judges the commands as one entry; answers the inode ids."""
        context, clock = self.context, time.thread_time_ns
        context.index = Index(context.index + 1)
        context.id_seed = context.index.to_bytes(16, "big")
        context.effects = Effects()
        found: list[bytes] = []
        raws = [command.SerializeToString() for command in commands]
        for ordinal, command in enumerate(commands):
            context.ordinal, context.command = ordinal, raws[ordinal]
            context.stamp_ns = Nanos(context.stamp_ns + 1)
            context.seq = Seq(context.seq + 1)
            begun = clock()
            outcome = judge(context, command)
            if spent is not None:
                spent.append((clock() - begun) / 1_000)
            assert outcome.reason == 0, outcome
            found.append(outcome.inode_id)
        begun = clock()
        flush_log(self.overlay, context.effects)
        self.flush_us.append((clock() - begun) / 1_000 / len(commands))
        self.store.write(self.overlay.take_changes())
        return found

    def found(self) -> None:
        self.context.workspace_id = self.entry([ops.workspace("bench")])[0]


def show(name: str, spent: list[float], budget_us: float) -> float:
    """Prints p50 and p99, and answers the p99."""
    spent.sort()
    middle, high = spent[len(spent) // 2], spent[int(len(spent) * 0.99)]
    print(f"{name:<44} p50 {middle:8.1f} µs   p99 {high:8.1f} µs   budget {budget_us:6.0f} µs   n {len(spent)}")
    return high


def quiet(run: Callable[[], None]) -> None:
    """Without the collector, as a node runs between its own collections."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        run()
    finally:
        gc.enable()
        gc.unfreeze()


def merkle_updates(leaves: int, seed: int) -> float:
    draw = random.Random(seed)
    overlay = Overlay(MemoryStore())
    tree = MerkleTree(overlay, bytes(16), 0, bytes(32))
    keys = [draw.randbytes(20) for _ in range(leaves)]
    for start in range(0, leaves, 500):
        tree.update([(key, key + bytes(12)) for key in keys[start : start + 500]])
    tree.flush(overlay)
    overlay.take_changes()
    spent: list[float] = []

    def run() -> None:
        clock = time.thread_time_ns
        for _ in range(20_000):
            key, leaf = draw.choice(keys), draw.randbytes(32)
            begun = clock()
            tree.update([(key, leaf)])
            spent.append((clock() - begun) / 1_000)

    quiet(run)
    return show(f"Merkle update, {leaves} leaves", spent, 10)


def small_files(files: int, seed: int) -> dict[str, float]:
    """Operations on a tree of so many files, 100 an entry."""
    draw = random.Random(seed)
    bench = Bench(MemoryStore())
    bench.found()
    directories = bench.entry([ops.mkdir(ops.ROOT, b"d%03d" % number) for number in range(max(1, files // 200))])
    ids: list[bytes] = []
    for start in range(0, files, 500):
        commands = [
            ops.create(directories[number % len(directories)], b"f%07d" % number)
            for number in range(start, min(files, start + 500))
        ]
        ids += bench.entry(commands)
    found: dict[str, float] = {}
    counter = iter(range(10_000_000))

    def measure(name: str, make: Callable[[], Command], rounds: int = 60) -> None:
        spent: list[float] = []

        def run() -> None:
            for _ in range(rounds):
                bench.entry([make() for _ in range(BATCH)], spent)

        quiet(run)
        found[name] = show(f"{name}, {files} files", spent, 40)

    measure("create", lambda: ops.create(draw.choice(directories), b"n%07d" % next(counter)))
    measure("write 300 bytes to a new file", lambda: ops.write(ids[next(counter) % files], 0, draw.randbytes(300)))
    measure("append 100 bytes", lambda: ops.append(draw.choice(ids), draw.randbytes(100)))
    measure("chmod", lambda: ops.chmod(draw.choice(ids), draw.randrange(0o1000)))
    counter = iter(range(files))

    def move() -> Command:
        number = next(counter)
        directory = directories[number % len(directories)]
        return ops.rename(directory, b"f%07d" % number, directory, b"r%07d" % number)

    measure("rename", move, min(60, files // BATCH))
    counter = iter(range(files))
    measure(
        "unlink",
        lambda: ops.unlink(directories[(number := next(counter)) % len(directories)], b"r%07d" % number),
        min(60, files // BATCH),
    )
    show("flush of an entry of 100, per operation", bench.flush_us, 10)
    prove(bench, directories)
    return found


def prove(bench: Bench, directories: list[bytes]) -> None:
    workspace_id = bench.context.workspace_id
    tree = open_tree(bench.store, workspace_id)
    workspace = open_workspace(bench.overlay, workspace_id)
    assert tree is not None and workspace is not None
    built: list[float] = []
    verified: list[float] = []
    names = [[b"d%03d" % number] for number in range(len(directories))]
    for path in names:
        begun = time.thread_time_ns()
        proof = prove_path(bench.store, workspace.tree, workspace_id, path)
        built.append((time.thread_time_ns() - begun) / 1_000)
        assert proof is not None
        begun = time.thread_time_ns()
        assert verify_path(tree.root_hash, path, proof) is not None
        verified.append((time.thread_time_ns() - begun) / 1_000)
    show("proof of a path, warm", built, 1_000)
    trees, answered = ProofTrees(), list[float]()
    for path in names * 4:
        begun = time.thread_time_ns()
        fresh = trees.open(bench.store, workspace_id)
        assert fresh is not None and prove_path(bench.store, fresh, workspace_id, path) is not None
        answered.append((time.thread_time_ns() - begun) / 1_000)
    show("proof of a path, as a node answers it", answered, 1_000)
    show("verification of a proof", verified, 1_000)


def large_file(chunks: int, seed: int) -> float:
    draw = random.Random(seed)
    bench = Bench(MemoryStore())
    bench.found()
    inode_id = bench.entry([ops.create(ops.ROOT, b"large")])[0]
    contents = [draw.randbytes(64) for _ in range(256)]
    bench.entry([ops.chunk_put(content) for content in contents])
    hashes = [blake3(content).digest() for content in contents]
    for start in range(0, chunks, 64):
        pieces = [(hashes[(start + number) % 256], 0, 64) for number in range(64)]
        # Each piece stands in a place of its own, as a chunk of 64 KiB would.
        bench.entry([ops.write_pieces(inode_id, (start + at) * 65_536, [piece]) for at, piece in enumerate(pieces)])
    spent: list[float] = []

    def run() -> None:
        for _ in range(40):
            commands = []
            for _ in range(50):
                at = draw.randrange(chunks) * 65_536
                commands.append(ops.write_pieces(inode_id, at, [(draw.choice(hashes), 0, 64)]))
            bench.entry(commands, spent)

    quiet(run)
    return show(f"write into a file of {chunks} chunks", spent, 100)


def opening(files: int, store: RocksStore) -> None:
    """How long a workspace of so many files takes to open, and the first operations after it."""
    bench = Bench(store)
    bench.found()
    directories = bench.entry([ops.mkdir(ops.ROOT, b"d%04d" % number) for number in range(500)])
    ids: list[bytes] = []
    begun = time.perf_counter()
    for start in range(0, files, 500):
        ids += bench.entry([ops.create(directories[n % 500], b"f%07d" % n) for n in range(start, start + 500)])
    print(f"{files} creates in {time.perf_counter() - begun:.1f} s, through the store")
    store.request_flush()
    while store.flush_state is not FlushState.IDLE:
        store.poll()
    store.close()
    begun = time.perf_counter()
    store.open()
    print(f"store opened in {(time.perf_counter() - begun) * 1_000:.0f} ms")
    bench.overlay = bench.context.overlay = Overlay(store)
    begun = time.perf_counter()
    workspace = open_workspace(bench.overlay, bench.context.workspace_id)
    assert workspace is not None
    print(f"opened in {(time.perf_counter() - begun) * 1_000:.2f} ms: {workspace.tree.size} leaves")
    spent: list[float] = []
    for number in range(20):
        bench.entry([ops.chmod(random.Random(number).choice(ids), 0o600)], spent)
    show("first operations after opening", spent, 100_000)
    begun = time.perf_counter()
    for number in range(1 << 16):
        workspace.tree.walk(number.to_bytes(2, "big") + bytes(18))
    print(f"every subtree loaded in {time.perf_counter() - begun:.2f} s")
    prefix = bench.context.workspace_id
    for family in (Family.TREE, Family.MERKLE):
        records = total = 0
        for key, value in store.scan(family, prefix, prefix_end(prefix)):
            records, total = records + 1, total + len(key) + len(value)
        print(f"{family.name}: {records} records, {total / files:.0f} bytes a file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=0, help="only the opening of a tree of so many files")
    chosen = parser.parse_args()
    if chosen.files:
        with tempfile.TemporaryDirectory() as directory:
            opening(chosen.files, RocksStore(directory))
        return
    for leaves in (1_000, 100_000, 200_000):
        merkle_updates(leaves, chosen.seed)
    for files in (1_000, 50_000):
        small_files(files, chosen.seed)
    for chunks in (1_024, 16_384):
        large_file(chunks, chosen.seed)


if __name__ == "__main__":
    main()
