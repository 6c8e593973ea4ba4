"""Made tests/golden/wal/v1, once. Kept to show what is in it; a new format gets a new directory and script.

Run from the top of the repository: python -m tests.golden.wal.make_v1 DIRECTORY
"""

from __future__ import annotations

import random
import sys

from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.wal import Wal
from tests.crash.wal_model import SEGMENT_BYTES, Driver


def write(driver: Driver) -> None:
    """Every kind of record, three segments, one of them already deleted."""
    rng = random.Random(1)
    driver.save_hard_state(1, "n1")
    driver.append(b"\x01\x00first", rng.randbytes(3000), b"")
    driver.save_commit_index(2)
    driver.sync()
    driver.append(b"to be truncated", rng.randbytes(600))
    driver.sync()
    driver.truncate_from(4)
    driver.save_hard_state(2, None)
    driver.append(b"in its place")
    driver.sync()
    driver.save_hard_state(3, "node-é")
    driver.append(*(rng.randbytes(1500) for _ in range(8)))
    driver.save_commit_index(9)
    driver.sync()
    driver.compact_to(6)
    driver.sync()
    driver.append(b"never committed")
    driver.sync()
    driver.save_hard_state(4, "n3")
    driver.truncate_from(driver.now.last_index)
    driver.append(b"last")
    driver.sync()


def write_reset(driver: Driver) -> None:
    driver.save_hard_state(7, None)
    driver.append(b"gone with the reset")
    driver.sync()
    driver.reset_to(1000, 6)
    driver.append(b"after the reset")
    driver.sync()


def make(directory: str) -> None:
    for name, script in (("log", write), ("reset", write_reset)):
        wal, _ = Wal.open(PosixDisk(), f"{directory}/{name}", segment_bytes=SEGMENT_BYTES, reserve_bytes=SEGMENT_BYTES)
        script(Driver(wal))
        wal.close()


if __name__ == "__main__":
    make(sys.argv[1])
