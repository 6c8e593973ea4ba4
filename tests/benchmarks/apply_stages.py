"""Where the time of a file operation goes in apply: `python -m tests.benchmarks.apply_stages`.

Whole entries as a follower applies them, parsing, versions, lanes, op log and digest included; each stage is what it
takes itself, without the stages it calls. CPU time of many short rounds, of which the fastest tenth counts, as machines
are shared; a stage is timed in rounds of its own, so that no clock stands inside of what the whole is measured by.
`merkle_ratio` compares an update with the hashes it can not do without: a figure that does not depend on the machine.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blake3 import blake3

from hypercluster.log.admission import admit
from hypercluster.log.entry import DecodedGroup, batch_of, decode_entry, encode_batch
from hypercluster.pb.v1.command_pb2 import Command, Submit
from hypercluster.state_machine import group, machine, versions
from hypercluster.state_machine.lanes import Lanes
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import MemoryStore
from hypercluster.state_machine.workspace import judging, turn
from hypercluster.state_machine.workspace.merkle import MerkleTree
from hypercluster.state_machine.workspace.merkle_nodes import Inner, nibbles
from hypercluster.state_machine.workspace.turn import Turn, derived_id
from hypercluster.values import Index, Nanos, Scope, Term
from tests.unit.workspace import ops

COMMANDS = 128  # an entry, by CLIENTS of them
CLIENTS = 8
STAMP_NS = 1_800_000_000_000_000_000
WHOLE = "parsing, and all of apply"

# What is told apart, and where it is called from. What is left of `judge` is the operation itself.
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("operation: verdict, inodes, entries, extents", group, "judge_file"),
    ("records of the operation: inodes, chunks", Turn, "commit"),
    ("versions", versions, "put"),
    ("Merkle update", MerkleTree, "update"),
    ("leaf hashes", turn, "inode_leaf_hash"),
    ("leaf hashes", turn, "entry_leaf_hash"),
    ("hazards", judging, "judge_hazard"),
    ("op log record", judging, "encode_log_record"),
    ("end of the entry: header, Merkle buckets and pages, op log", machine, "flush_log"),
    ("lane and stored results", group, "encode_run"),
    ("lane and stored results", Lanes, "save"),
    ("digest", machine, "next_digest"),
)


class Log:
    """Makes entries of one workspace, and applies them to one machine."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.clients = [number.to_bytes(16, "big") for number in range(1, CLIENTS + 1)]
        self.seqs = dict.fromkeys(self.clients, 1)
        self.index = 0
        seed = self.apply(self.entry([ops.workspace("bench")], b""))
        self.workspace_id = derived_id(seed, 0, b"workspace")

    def entry(self, commands: list[Command], workspace_id: bytes | None = None) -> bytes:
        """The payload of the next entry, in equal parts from every client."""
        share = -(-len(commands) // CLIENTS)
        groups = []
        for number, client_id in enumerate(self.clients):
            raws = [command.SerializeToString() for command in commands[number * share : (number + 1) * share]]
            if raws:
                first_seq = self.seqs[client_id]
                submit = Submit(
                    client_id=client_id,
                    first_seq=first_seq,
                    floor=max(0, first_seq - 65),
                    workspace_id=self.workspace_id if workspace_id is None else workspace_id,
                    commands=raws,
                )
                submit.origin.agent = f"agent-{number}"
                message = submit.SerializeToString()
                groups.append(DecodedGroup(message, "bench", Scope("acme", "bench"), f"host-{number}", admit(message)))
                self.seqs[client_id] += len(raws)
        seed = (self.index + 1).to_bytes(16, "big")
        return encode_batch(batch_of(Nanos(STAMP_NS + self.index * 1_000_000), seed, groups))

    def apply(self, payload: bytes) -> bytes:
        """Answers the seed of the ids it gave."""
        self.index += 1
        applied = self.machine.apply(Index(self.index), Term(1), decode_entry(payload))
        assert not any(any(run.reasons) for found in applied.groups for run in found.runs)
        self.store.write(applied.changes)
        return self.index.to_bytes(16, "big")

    def grow(self, directories: int, files: int) -> tuple[list[bytes], list[bytes]]:
        """Directories and empty files; the ids of both."""
        made = self._make([ops.mkdir(ops.ROOT, b"d%04d" % number) for number in range(directories)])
        places = [(made[number % directories], b"f%07d" % number) for number in range(files)]
        return made, self._make([ops.create(directory, name) for directory, name in places])

    def _make(self, commands: list[Command]) -> list[bytes]:
        found: list[bytes] = []
        for start in range(0, len(commands), COMMANDS):
            part = commands[start : start + COMMANDS]
            seed = self.apply(self.entry(part))
            found += [derived_id(seed, ordinal, b"inode") for ordinal in range(len(part))]
        return found


class Stopwatch:
    """Time spent in some functions, without what they spend in others of them."""

    def __init__(self) -> None:
        self.spent_ns: dict[str, list[int]] = {}  # of each call
        self._inside: list[int] = []  # of each call under way, the time its inner ones took

    @contextmanager
    def on(self, stages: tuple[tuple[str, Any, str], ...]) -> Iterator[None]:
        found = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in stages]
        for (name, owner, attribute), (_, _, function) in zip(stages, found, strict=True):
            setattr(owner, attribute, self._timed(name, function))
        try:
            yield
        finally:
            for owner, attribute, function in found:
                setattr(owner, attribute, function)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock, inside, spent_ns = time.perf_counter_ns, self._inside, self.spent_ns

        def timed(*arguments: Any, **named: Any) -> Any:
            inside.append(0)
            begun = clock()
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - begun
                spent_ns.setdefault(name, []).append(took - inside.pop())
                if inside:
                    inside[-1] += took

        return timed


def _fast(times: list[float]) -> float:
    return sorted(times)[len(times) // 10]


def measure(log: Log, make: Callable[[], Command], rounds: int) -> dict[str, float]:
    """Microseconds an operation: the whole, and by stage."""
    whole: list[float] = []
    stages: dict[str, list[float]] = {}
    gc.collect()
    gc.freeze()
    for number in range(2 * rounds):
        payload = log.entry([make() for _ in range(COMMANDS)])
        if number % 2:
            begun = time.thread_time_ns()
            log.apply(payload)
            whole.append((time.thread_time_ns() - begun) / 1_000 / COMMANDS)
            continue
        watch = Stopwatch()
        with watch.on(STAGES):
            log.apply(payload)
        for (
            name,
            calls,
        ) in watch.spent_ns.items():  # the middle of them: a call in which others had the core says nothing
            spent_ns = statistics.median(calls) * len(calls)
            stages.setdefault(name, []).append(spent_ns / 1_000 / COMMANDS)
    gc.unfreeze()
    return {WHOLE: _fast(whole)} | {name: _fast(times) for name, times in stages.items()}


def kinds(log: Log, files: int, seed: int) -> dict[str, Callable[[], Command]]:
    draw = random.Random(seed)
    directories, ids = log.grow(max(1, files // 200), files)
    numbers = iter(range(10_000_000))
    hot = ids[:64]
    return {
        "create": lambda: ops.create(draw.choice(directories), b"n%07d" % next(numbers)),
        "write 300 bytes": lambda: ops.write(ids[next(numbers) % files], 0, draw.randbytes(300)),
        "append 100 bytes": lambda: ops.append(draw.choice(hot), draw.randbytes(100)),
        "chmod": lambda: ops.chmod(draw.choice(ids), draw.randrange(0o1000)),
    }


def merkle_ratio(leaves: int, rounds: int, seed: int) -> float:
    """What an update of one leaf takes, by what the hashes on its way alone take; both at their fastest."""
    draw = random.Random(seed)
    overlay = Overlay(MemoryStore())
    tree = MerkleTree(overlay, bytes(16), 0, bytes(32))
    keys = [draw.randbytes(20) for _ in range(leaves)]
    for start in range(0, leaves, 500):
        tree.update([(key, bytes(32)) for key in keys[start : start + 500]])
    updates: list[float] = []
    hashes: list[float] = []
    clock = time.thread_time_ns
    for _ in range(rounds):
        tree.flush(overlay)
        overlay.take_changes()
        changes = [[(draw.choice(keys), draw.randbytes(32))] for _ in range(100)]
        begun = clock()
        for change in changes:
            tree.update(change)
        between = clock()
        for ((key, _),) in changes:
            kid = tree.root
            for digit in nibbles(key):
                if not isinstance(kid, Inner):
                    break
                blake3(kid.page).digest()
                kid = kid.kids[digit]
            blake3(kid).digest()  # type: ignore[arg-type]
        updates.append(between - begun)
        hashes.append(clock() - between)
    return min(updates) / min(hashes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    log = Log()
    table = {name: measure(log, make, asked.rounds) for name, make in kinds(log, asked.files, asked.seed).items()}
    print(f"{'µs an operation':<60}" + "".join([f"{name:>18}" for name in table]))
    for stage in dict.fromkeys((WHOLE, *[name for name, _, _ in STAGES])):
        print(f"{stage:<60}" + "".join([f"{found.get(stage, 0):>18.1f}" for found in table.values()]))
    for leaves in (1_000, 100_000):
        print(f"a Merkle update by its hashes alone, {leaves} leaves: {merkle_ratio(leaves, 100, asked.seed):.2f}")


if __name__ == "__main__":
    main()
