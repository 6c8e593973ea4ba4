"""A process that writes a log and says on stdout what has become durable, until somebody kills it.

Run as: python -m tests.crash.wal_writer_process DIRECTORY SEED
Every line is `TERM DURABLE_INDEX`, written only after `finish`.
"""

from __future__ import annotations

import os
import random
import sys
import threading

from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.wal import HardState, LogEntry
from hypercluster.values import Index, NodeId, Term
from tests.crash.wal_model import open_log


def content(index: int, term: int) -> bytes:
    """What entry `index` of `term` holds: known to whoever checks it."""
    rng = random.Random(index * 1_000_003 + term)
    return rng.randbytes(rng.randint(0, 2_000))


def write_for_ever(directory: str, seed: int) -> None:
    rng = random.Random(seed)
    wal, _ = open_log(PosixDisk(), directory)
    term = wal.hard_state.term
    while True:
        if rng.random() < 0.05 or term == 0:
            term = Term(term + 1)
            wal.save_hard_state(HardState(term, NodeId(f"n{term}")))
            if wal.last_index > wal.commit_index:
                wal.truncate_from(Index(rng.randint(wal.commit_index + 1, wal.last_index)))
        last = wal.last_index
        wal.append([LogEntry(Index(last + at), term, content(last + at, term)) for at in range(1, rng.randint(2, 6))])
        if rng.random() < 0.2:
            wal.save_commit_index(Index(max(wal.commit_index, wal.durable_index)))
        if rng.random() < 0.1:
            wal.compact_to(wal.commit_index)
        while (job := wal.take_job()) is not None:
            thread = threading.Thread(target=job.run)
            thread.start()
            thread.join()
            wal.finish(job)
        # The commit index is what later truncations keep, so an index told here stays for ever.
        wal.save_commit_index(wal.durable_index)
        os.write(1, f"{wal.hard_state.term} {wal.durable_index}\n".encode())


if __name__ == "__main__":
    write_for_ever(sys.argv[1], int(sys.argv[2]))
