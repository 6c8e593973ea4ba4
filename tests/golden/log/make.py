"""Makes a golden log: `python -m tests.golden.log.make tests/golden/log/v1`, or of another `--workload`.

It holds recorded entries (`entries.bin`: each with its length in four bytes) and, per index, the digest after it
(`digests.txt`). A release's log is made once and then replays to the same digests for ever (CL-17, OPS-5); a change
of what apply does goes behind the cluster version, into a log of its own.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Iterable, Iterator

from hypercluster.log.entry import decode_entry
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.meta import genesis
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import ClusterId, HistoryId, Index, Term
from tests.golden.log.claim_workload import claim_entries
from tests.golden.log.lock_workload import lock_entries
from tests.golden.log.workload import core_entries

SEED = 20_260_101
ENTRIES, LOCK_ENTRIES = 160, 300
TERM = Term(3)
WORKLOADS: dict[str, Callable[[], Iterator[bytes]]] = {
    "core": lambda: core_entries(SEED, ENTRIES),
    "locks": lambda: lock_entries(SEED, LOCK_ENTRIES),
    "claims": lambda: claim_entries(SEED, LOCK_ENTRIES),
}


def replay(payloads: Iterable[bytes]) -> Iterator[str]:
    """digest_k for k = 1, 2, …, as hex, over a new cluster's state."""
    store = MemoryStore()
    store.write(genesis(ClusterId(b"golden cluster 1"), HistoryId(b"golden history 1")))
    machine = Machine(store)
    for number, payload in enumerate(payloads, 1):
        applied = machine.apply(Index(number), TERM, decode_entry(payload))
        store.write(applied.changes)
        yield applied.digest.hex()


def read_entries(directory: pathlib.Path) -> Iterator[bytes]:
    whole = (directory / "entries.bin").read_bytes()
    position = 0
    while position < len(whole):
        start = position + 4
        position = start + int.from_bytes(whole[position:start], "big")
        yield whole[start:position]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--workload", choices=WORKLOADS, default="core")
    chosen = parser.parse_args()
    directory: pathlib.Path = chosen.directory
    directory.mkdir(parents=True, exist_ok=True)
    payloads = list(WORKLOADS[chosen.workload]())
    (directory / "entries.bin").write_bytes(b"".join(len(p).to_bytes(4, "big") + p for p in payloads))
    (directory / "digests.txt").write_text("".join(f"{digest}\n" for digest in replay(payloads)), encoding="ascii")


if __name__ == "__main__":
    main()
