"""The log in a real process on a real disk: killed, and on a file system that is really full."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercluster.errors import DiskFullError
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.wal import HardState, LogEntry, Wal
from hypercluster.values import Index, NodeId, Term
from tests.crash.wal_model import open_log
from tests.crash.wal_writer_process import content

ROOT = Path(__file__).resolve().parents[2]
LIVES = 6


def one_life(directory: str, seed: int, lines_until_kill: int) -> tuple[int, int]:
    """(term, index) of the last line a process said before SIGKILL took it in the middle of its work."""
    command = [sys.executable, "-m", "tests.crash.wal_writer_process", directory, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines_until_kill)]
        assert all(said), "the writer ended by itself"
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
        process.wait()
    term, index = [line.split() for line in said if line.endswith(b"\n")][-1]
    return int(term), int(index)


@pytest.mark.req("CL-2", "CL-3", "CH-7")
def test_a_killed_process_loses_nothing_it_called_durable(tmp_path: Path) -> None:
    seed = 4
    print(f"seed {seed}")
    rng = random.Random(seed)
    directory = f"{tmp_path}/wal"
    told_term = told_index = 0
    for life in range(LIVES):
        term, index = one_life(directory, rng.randrange(1 << 30), rng.randint(5, 120))
        told_term, told_index = max(told_term, term), max(told_index, index)
        wal, report = open_log(PosixDisk(), directory)
        print(f"life {life}: told {told_term} {told_index}, found {report}")
        assert wal.last_index >= told_index
        assert wal.hard_state.term >= told_term
        assert wal.hard_state.voted_for == f"n{wal.hard_state.term}"
        for position in range(wal.base_index + 1, wal.last_index + 1):
            entry = wal.entry(Index(position))
            assert entry.payload == content(position, entry.term)
        wal.close()
    assert told_index > 100


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[str]:
    """A tmpfs of 96 KiB: 12 segments."""
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("not run: needs root with the right to mount a tmpfs")
    yield str(place)
    subprocess.run(["umount", "-l", str(place)], check=True)


def append_until_full(wal: Wal) -> int:
    for count in range(1_000):
        try:
            wal.append([LogEntry(Index(wal.last_index + 1), wal.hard_state.term, content(wal.last_index + 1, 1))])
        except DiskFullError:
            return count
        wal.sync()
    pytest.fail("the file system never was full")


@pytest.mark.root
@pytest.mark.req("CL-4")
def test_a_full_file_system(small_file_system: str) -> None:
    directory = f"{small_file_system}/wal"
    wal, _ = open_log(PosixDisk(), directory)
    wal.save_hard_state(HardState(Term(1), NodeId("n1")))
    assert append_until_full(wal) > 20
    with open(f"{small_file_system}/hog", "wb", buffering=0) as hog:
        try:
            while True:
                hog.write(bytes(1024))
        except OSError:
            pass  # Now there really is not one byte left.
    assert PosixDisk().free_bytes(small_file_system) == 0
    last = wal.last_index
    term, left = 1, 3
    while left:  # until the reserve has become the newest segment, and a few more
        term += 1
        wal.save_hard_state(HardState(Term(term), NodeId("n2")))
        wal.sync()
        left -= wal._pool.ready < wal._pool.reserve
    with pytest.raises(DiskFullError):
        wal.append([LogEntry(Index(last + 1), Term(term), b"small")])
    wal.truncate_from(last)
    wal.sync()
    wal.close()
    wal, report = open_log(PosixDisk(), directory)
    assert (wal.last_index, wal.hard_state) == (last - 1, HardState(Term(term), NodeId("n2")))
    assert report.torn_bytes == 0
    wal.compact_to(wal.last_index)
    wal.sync()
    assert append_until_full(wal) > 10, "compaction made room"
    os.unlink(f"{small_file_system}/hog")
    wal.compact_to(wal.last_index)
    wal.sync()
    assert append_until_full(wal) > 20
    for position in range(wal.base_index + 1, wal.last_index + 1):
        assert wal.entry(Index(position)).payload == content(position, 1)
    wal.close()
