"""The power is cut before every single write, sync, rename and unlink of the log, also while it is being opened."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from hypercluster.storage.wal import Wal, writer
from tests.crash.wal_model import DIRECTORY, Driver, drawn, open_log, payload, read_back, scripted
from tests.simulation.sim_disk import PowerCut, SimDisk

Workload = Callable[[Driver], None]


def fresh(seed: int) -> tuple[SimDisk, Driver]:
    """A disk with an empty log that was closed properly."""
    disk = SimDisk(random.Random(seed))
    wal, _ = open_log(disk)
    return disk, Driver(wal)


def count_operations(workload: Workload) -> int:
    disk, driver = fresh(0)
    before = disk.operation_count
    workload(driver)
    return disk.operation_count - before


def cut_and_check(workload: Workload, at: int, seed: int, open_cut: int | None = None) -> bool:
    """One crash before operation `at`; optionally another one while the log is opened again. False when the second
    cut came too late to happen."""
    disk, driver = fresh(seed)
    disk.cut_power_at(at)
    with pytest.raises(PowerCut):
        workload(driver)
    disk.crash()
    was_cut = False
    if open_cut is not None:
        disk.cut_power_at(open_cut)
        try:
            open_log(disk)
        except PowerCut:
            was_cut = True
        disk.crash()
    wal, _ = open_log(disk)
    found = read_back(wal)
    driver.check_recovered(found)
    go_on(disk, wal)
    return was_cut


def go_on(disk: SimDisk, wal: Wal) -> None:
    """What was recovered is durable, and the log goes on from it: it holds after another crash."""
    found = read_back(wal)
    disk.crash()
    again, report = open_log(disk)
    assert read_back(again) == found, "what open reported was not durable"
    assert report.torn_bytes == 0, "a cut tail came back"
    driver = Driver(again)
    driver.save_hard_state(found.hard_state.term + 1, "n9")
    driver.append(payload(random.Random(1), 100), payload(random.Random(2), 100))
    driver.sync()
    disk.crash()
    last, _ = open_log(disk)
    assert read_back(last).same_log(driver.now)


@pytest.mark.req("CL-2", "CL-3", "CH-7")
@pytest.mark.parametrize("seed", range(3))
def test_power_cut_before_every_operation(seed: int) -> None:
    total = count_operations(scripted)
    assert total > 60
    for at in range(1, total + 1):
        cut_and_check(scripted, at, seed * 1000 + at)


@pytest.mark.req("CL-2", "CH-7")
def test_killed_before_every_operation_and_power_cut_later() -> None:
    """A killed process leaves names and bytes in the page cache; the next one must not take them for durable."""
    total = count_operations(scripted)
    for at in range(1, total + 1):
        for seed in range(3):
            disk, driver = fresh(seed * 1000 + at)
            disk.cut_power_at(at)
            with pytest.raises(PowerCut):
                scripted(driver)
            disk.cut_power_at(None)
            wal, _ = open_log(disk)
            driver.check_recovered(read_back(wal))
            after = Driver(wal)
            after.save_hard_state(after.now.hard_state.term + 1, "n9")
            after.append(b"in the second life")
            after.sync()
            disk.crash()
            assert read_back(open_log(disk)[0]).same_log(after.now)


@pytest.mark.req("CL-3", "CH-7")
def test_power_cut_when_a_sync_has_several_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with syncs of more than 4 MiB: a later group of a sync may survive an earlier one."""
    monkeypatch.setattr(writer, "GROUP_BYTES_MAX", 1_000)
    total = count_operations(scripted)
    for at in range(1, total + 1):
        for seed in range(4):
            cut_and_check(scripted, at, seed * 1000 + at)
    for seed in range(100, 140):
        random_run(seed)


@pytest.mark.req("CL-3", "CH-7")
def test_power_cut_before_every_operation_of_opening_again() -> None:
    total = count_operations(scripted)
    for at in range(1, total + 1, 3):
        open_cut = 1
        while cut_and_check(scripted, at, at, open_cut):
            open_cut += 1
        assert open_cut > 1


@pytest.mark.req("CL-2", "CH-7")
def test_power_cut_before_every_operation_of_making_a_log() -> None:
    for seed in range(5):
        at = 1
        while True:
            disk = SimDisk(random.Random(seed * 100 + at))
            disk.cut_power_at(at)
            try:
                open_log(disk)
                break
            except PowerCut:
                disk.crash()
            wal, _ = open_log(disk)
            go_on(disk, wal)
            at += 1
        assert at > 10


@pytest.mark.req("CL-2", "CL-3")
def test_random_workloads_and_crashes() -> None:
    for seed in range(150):
        print(f"seed {seed}")
        random_run(seed)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.req("CL-2", "CL-3")
def test_many_random_workloads_and_crashes() -> None:
    for seed in range(1_000, 6_000):
        print(f"seed {seed}")
        random_run(seed)


def random_run(seed: int) -> None:
    """Several lives of one log: each is cut somewhere, each starts from what the one before left."""
    rng = random.Random(seed)
    disk = SimDisk(random.Random(seed + 1))
    for _ in range(4):
        wal, _ = open_log(disk)
        driver = Driver(wal)
        if rng.random() < 0.8:
            disk.cut_power_at(rng.randint(1, 120))
        with contextlib.suppress(PowerCut):
            drawn(driver, rng, 40)
        disk.crash()
        wal, _ = open_log(disk)
        driver.check_recovered(read_back(wal))
        assert disk.listdir(DIRECTORY)


@pytest.mark.req("CL-3")
def test_a_group_is_all_or_nothing() -> None:
    """A truncation and what replaces it, in one sync: before or after, never between."""
    seen = set()
    for seed in range(120):
        disk, driver = fresh(seed)
        driver.save_hard_state(1, None)
        driver.append(*(payload(random.Random(at), 500) for at in range(5)))
        driver.sync()
        before = driver.now
        driver.truncate_from(3)
        driver.save_hard_state(2, "n2")
        driver.append(payload(random.Random(8), 700), payload(random.Random(9), 700))
        after = driver.now
        job = driver.take()
        assert job is not None
        disk.cut_power_at(2)  # the write is done, the sync is not
        with pytest.raises(PowerCut):
            job.run()
        disk.crash()
        found = read_back(open_log(disk)[0])
        assert found.same_log(before) or found.same_log(after)
        seen.add(found.same_log(after))
    assert seen == {True, False}
