"""The power is cut under what a node keeps beside its log and state, and under a worker's directory (WS-53 to WS-55).

Each lies on an ext4 file system of its own, and a cut takes whatever was written there and not synced. Under it work
the drivers of the crash points; the entries of the node stand on another disk, as its log has them synced. What must
hold afterwards is what must hold after a kill, but for what nobody was promised: the newest of a worker, which the log
brings again. A build that leaves a sync out is caught by the same test.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.cluster.image import PowerDisk, cut_all, why_not
from hypercluster.errors import FatalError, HyperClusterError
from tests.crash.crash_defects import DEFECTS
from tests.crash.crash_drivers import DRIVERS
from tests.crash.crash_points import LIVE, MIRROR, RETENTION
from tests.crash.crash_worker import opened as live_tree
from tests.unit.client.worker.random_tree import RandomTree

SEED = int(os.environ.get("HYPERCLUSTER_POWER_SEED", "1"))
ROUNDS = int(os.environ.get("HYPERCLUSTER_KEPT_ROUNDS", "4"))
DISK_BYTES = 2 << 30  # sparse
LINES = (3, 60)  # that are told before a cut
TOLD_S = 120.0
UNPROMISED = ("applied", "durable")  # of a worker: what it has reached need not have reached the disk
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["tests.crash.crash_drivers"])

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(1800)]


def until_cut(driver: str, directory: Path, told: Path, seed: int, defect: str) -> None:
    """In a process of its own."""
    DEFECTS[defect]()
    with open(told, "ab", buffering=0) as lines:
        DRIVERS[driver].work(directory, seed, lambda line: bool(lines.write(f"{line}\n".encode())) and None)


def lines_of(told: Path) -> list[str]:
    return [line.decode() for line in told.read_bytes().split(b"\n")[:-1]] if told.exists() else []


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Disks are removed last, whatever happens."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield stack


def cut_once(driver: str, base: Path, opened: ExitStack, rng: random.Random, defect: str = "") -> None:
    """Raises what the check finds."""
    directory, told = base / "work", base / "told"
    place = directory / "data" if driver == RETENTION else directory
    place.mkdir(parents=True)
    disk = PowerDisk(base / "image", place, DISK_BYTES)
    opened.callback(disk.remove)
    disk.mount()
    seed, lines = rng.randrange(1 << 30), rng.randrange(*LINES)
    child = _fork.Process(target=until_cut, args=(driver, directory, told, seed, defect))
    child.start()
    end_s = time.monotonic() + TOLD_S
    try:
        while len(lines_of(told)) < lines:
            assert child.exitcode is None, f"it ended with {child.exitcode}"
            assert time.monotonic() < end_s, f"{lines} lines were not told within {TOLD_S} s"
            child.join(0.001)
        child.join(rng.random() * 0.05)
        cut_all([disk])
    finally:
        child.kill()
        child.join()
    assert child.exitcode in {-signal.SIGKILL, 1}  # what it did after the cut failed
    disk.unmount()
    disk.mount()
    found = lines_of(told)
    print(f"{driver}: seed {seed}, cut after {len(found)} lines")
    promised = [line for line in found if driver == RETENTION or not line.startswith(UNPROMISED)]
    DRIVERS[driver].check(directory, promised)
    disk.unmount()


@pytest.mark.req("WS-53", "WS-54", "CH-4")
def test_snapshots_archive_and_chunks_survive_a_power_cut(tmp_path: Path, opened: ExitStack) -> None:
    cut_often(RETENTION, tmp_path, opened)


@pytest.mark.req("WS-55", "CH-4")
@pytest.mark.parametrize("driver", [MIRROR, LIVE])
def test_a_workers_directory_survives_a_power_cut(tmp_path: Path, opened: ExitStack, driver: str) -> None:
    cut_often(driver, tmp_path, opened)


@pytest.mark.req("WS-55", "CH-4")
def test_a_live_tree_that_replaced_another_is_there_after_a_power_cut(tmp_path: Path, opened: ExitStack) -> None:
    """The one before is gone for good as soon as anything else on the disk is synced."""
    place = tmp_path / "host"
    place.mkdir()
    disk = PowerDisk(tmp_path / "image", place, DISK_BYTES)
    opened.callback(disk.remove)
    disk.mount()
    tree = RandomTree(SEED)
    for _ in range(5):
        with live_tree(place, tree) as live:
            tree.step()
            live.build()
            built = tree.site.header.log_index
    descriptor = os.open(place, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    cut_all([disk])
    disk.unmount()
    disk.mount()
    with live_tree(place, tree) as live:
        assert live.replica is not None, "the tree is gone"
        assert live.replica.log_index == built
    disk.unmount()


def cut_often(driver: str, path: Path, opened: ExitStack, defect: str = "") -> None:
    print(f"seed {SEED}, {ROUNDS} rounds")
    rng = random.Random(f"{SEED} {driver}")
    for number in range(ROUNDS):
        cut_once(driver, path / f"{number}", opened, rng, defect)


@pytest.mark.req("CH-10", "WS-54", "WS-55")
@pytest.mark.parametrize(("driver", "defect"), [(RETENTION, "syncs_no_file"), (MIRROR, "syncs_its_index_alone")])
def test_a_build_that_leaves_out_a_sync_is_caught(tmp_path: Path, opened: ExitStack, driver: str, defect: str) -> None:
    with pytest.raises((AssertionError, FatalError, HyperClusterError, OSError)) as caught:
        cut_often(driver, tmp_path, opened, defect)
    print(f"{defect}: {caught.value!r:.300}")
    assert "lines were not told" not in str(caught.value)
