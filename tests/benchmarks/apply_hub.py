"""What one hub command costs in apply, on one core: `python -m tests.benchmarks.apply_hub`.

Sixteen 256-byte sets a run, sixteen runs an entry, over a MemoryStore; lanes, versions, op log and digest included.
The budget is 10 µs. Admission (budget 4 µs), decoding and the framing of entries are shown beside it.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Iterator

from hypercluster.log.admission import admit
from hypercluster.log.entry import DecodedEntry, DecodedGroup, batch_of, decode_entry, encode_batch
from hypercluster.pb.v1.command_pb2 import Command, Submit
from hypercluster.pb.v1.hub_command_pb2 import HUB_OP_TYPE_SET, HubCommand
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import Index, Nanos, Scope, Term

RUN_COMMANDS = 16
ENTRY_RUNS = 16
KEYS = 50_000
STAMP_NS = 1_800_000_000_000_000_000


def submits(runs: int, seed: int) -> Iterator[bytes]:
    """Serialized Submit messages of 64 clients in turn."""
    draw = random.Random(seed)
    clients = [draw.randbytes(16) for _ in range(64)]
    for number in range(runs):
        turn, client = divmod(number, len(clients))
        commands = [
            Command(
                hub=HubCommand(
                    namespace="metadata",
                    key=b"agents/%07d" % draw.randrange(KEYS),
                    op_type=HUB_OP_TYPE_SET,
                    payload=b'"' + draw.randbytes(127).hex().encode() + b'"',
                )
            ).SerializeToString()
            for _ in range(RUN_COMMANDS)
        ]
        first_seq = 1 + turn * RUN_COMMANDS
        submit = Submit(client_id=clients[client], first_seq=first_seq, floor=max(0, first_seq - 65), commands=commands)
        submit.origin.agent = "bench"
        yield submit.SerializeToString()


def measure(entries: int, seed: int) -> dict[str, float]:
    """Microseconds per command of each step; the fastest fifth of the entries counts, as the machine is shared."""
    scope = Scope("acme", "bench")
    store = MemoryStore()
    machine = Machine(store)
    spent: dict[str, list[float]] = {"admit": [], "encode": [], "decode": [], "apply": []}
    gc.collect()
    gc.freeze()
    messages = list(submits(entries * ENTRY_RUNS, seed))
    clock = time.perf_counter
    for number in range(entries):
        received = messages[number * ENTRY_RUNS : (number + 1) * ENTRY_RUNS]
        start = clock()
        runs = [admit(message) for message in received]
        admitted = clock()
        groups = [DecodedGroup(m, "bench", scope, "host", run) for m, run in zip(received, runs, strict=True)]
        entry = batch_of(Nanos(STAMP_NS + number * 1_000_000), bytes(16), groups)
        payload = encode_batch(entry)
        encoded = clock()
        decoded: DecodedEntry = decode_entry(payload)
        parsed = clock()
        applied = machine.apply(Index(number + 1), Term(1), decoded)
        done = clock()
        store.write(applied.changes)
        assert not any(run.reasons for group in applied.groups for run in group.runs)
        for name, seconds in zip(
            spent, (admitted - start, encoded - admitted, parsed - encoded, done - parsed), strict=True
        ):
            spent[name].append(seconds)
    gc.unfreeze()
    return {name: _fast(times) / (RUN_COMMANDS * ENTRY_RUNS) * 1e6 for name, times in spent.items()}


def _fast(times: list[float]) -> float:
    return sorted(times)[len(times) // 5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    for name, microseconds in measure(asked.entries, asked.seed).items():
        print(f"{name:>8} {microseconds:6.2f} µs a command")


if __name__ == "__main__":
    main()
