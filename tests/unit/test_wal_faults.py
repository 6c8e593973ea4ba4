"""The log on a disk that fails or is full (CL-4), and the order in which it touches the disk (CL-2)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from hypercluster.errors import DamagedError, DiskFailedError, DiskFullError
from hypercluster.storage.wal import HardState, LogEntry, Wal
from hypercluster.values import Index, NodeId, Term
from tests.crash.wal_model import DIRECTORY, SEGMENT_BYTES, Driver, open_log, payload, read_back, scripted
from tests.simulation.sim_disk import PowerCut, SimDisk

RNG = random.Random(9)


def fresh(seed: int = 1, segments: int | None = None) -> tuple[SimDisk, Driver]:
    disk = SimDisk(random.Random(seed), None if segments is None else segments * SEGMENT_BYTES)
    return disk, Driver(open_log(disk)[0])


def fill(driver: Driver) -> None:
    """Appends until the log refuses."""
    for _ in range(1_000):
        before = driver.now
        try:
            driver.append(payload(RNG, 1000))
        except DiskFullError:
            driver.now = before
            driver.snapshots.pop()
            assert driver.wal.last_index == before.last_index, "something of a refused append was buffered"
            return
        driver.sync()
    pytest.fail("the disk never was full")


def into_the_reserve(driver: Driver) -> None:
    """Saves terms until the reserve has become the newest segment, and a few more."""
    pool = driver.wal._pool
    left = 3
    while left:
        driver.save_hard_state(driver.now.hard_state.term + 1, "n2")
        driver.sync()
        left -= pool.ready < pool.reserve
    assert pool.full


# --- an error is final -----------------------------------------------------------------------------


def every_call(wal: Wal) -> list[Callable[[], object]]:
    return [
        lambda: wal.append([LogEntry(Index(wal.last_index + 1), Term(9), b"")]),
        lambda: wal.truncate_from(wal.last_index),
        lambda: wal.save_hard_state(HardState(Term(99), None)),
        lambda: wal.save_commit_index(wal.last_index),
        lambda: wal.compact_to(wal.last_index),
        lambda: wal.reset_to(Index(100), Term(9)),
        lambda: wal.entry(wal.last_index),
        lambda: wal.entries(wal.last_index, 100),
        wal.take_job,
        wal.sync,
    ]


@pytest.mark.req("CL-4")
def test_a_failed_sync_is_never_retried_and_never_believed() -> None:
    for seed in range(20):
        disk, driver = fresh(seed)
        driver.append(b"one", b"two")
        driver.sync()
        driver.append(b"three")
        job = driver.take()
        assert job is not None
        disk.fail_next_sync(".wal")
        with pytest.raises(DiskFailedError, match="not retried"):
            job.run()
        assert driver.wal.durable_index == 2 and driver.wal.durable_generation == 1
        operations = disk.operation_count
        for call in every_call(driver.wal):
            with pytest.raises(DiskFailedError):
                call()
        with pytest.raises(DiskFailedError):
            driver.wal.finish(job)
        with pytest.raises(DiskFailedError):
            job.run()
        driver.wal.close()
        assert disk.operation_count == operations, "the disk was touched again"
        # The process starts again without a power cut: the kernel still shows the lost bytes.
        found = read_back(open_log(disk)[0])
        disk.crash()
        assert read_back(open_log(disk)[0]) == found, "what open reported was in the page cache only"
        driver.check_recovered(found)


@pytest.mark.req("CL-4")
def test_any_failing_sync_stops_the_log() -> None:
    """Files and the directory, in every place the script syncs one."""
    for at in range(1, 200):
        disk, driver = fresh(at)
        disk.fail_sync_at(at)
        try:
            scripted(driver)
        except DiskFailedError:
            with pytest.raises(DiskFailedError):
                driver.wal.sync()
        else:
            assert at > 30, "the script syncs more often than this"
            return
        disk.crash()
        driver.check_recovered(read_back(open_log(disk)[0]))
    pytest.fail("the script never ended")


def test_an_entry_that_can_not_be_read_is_damage() -> None:
    disk, driver = fresh()
    driver.append(*(payload(RNG, 1000) for _ in range(5)))
    driver.sync()
    file = disk.open(f"{DIRECTORY}/{1:016d}.wal")
    file.pwrite(bytes(512), 1024)
    with pytest.raises(DamagedError, match=r"entry 1.*wal inspect"):
        driver.wal.entry(Index(1))


# --- a full disk -------------------------------------------------------------------------------------


@pytest.mark.req("CL-4")
def test_on_a_full_disk_only_appends_are_refused_and_room_brings_them_back() -> None:
    disk, driver = fresh(segments=6)
    driver.save_hard_state(1, "n1")
    fill(driver)
    assert disk.free_bytes(DIRECTORY) < SEGMENT_BYTES
    refused = driver.now
    with pytest.raises(DiskFullError, match="reserve"):
        driver.wal.append([LogEntry(Index(refused.last_index + 1), Term(1), payload(RNG, 1000))])
    into_the_reserve(driver)
    with pytest.raises(DiskFullError):
        driver.wal.append([LogEntry(Index(refused.last_index + 1), Term(99), b"small")])
    driver.save_commit_index(refused.last_index - 3)
    driver.truncate_from(refused.last_index - 1)
    driver.sync()
    driver.check_live()
    assert read_back(open_log(disk)[0]).same_log(driver.now)


@pytest.mark.req("CL-4")
def test_compaction_makes_room_and_restores_the_reserve() -> None:
    _, driver = fresh(segments=6)
    fill(driver)
    into_the_reserve(driver)
    driver.compact_to(driver.now.last_index)
    driver.sync()
    assert not driver.wal.dirty
    driver.append(payload(RNG, 1000))
    driver.sync()
    fill(driver)
    assert driver.wal._pool.ready >= driver.wal._pool.reserve
    driver.check_live()


@pytest.mark.req("CL-4")
def test_room_made_by_others_brings_appends_back() -> None:
    disk, driver = fresh(segments=6)
    fill(driver)
    disk.set_capacity(12 * SEGMENT_BYTES)
    accepted = False
    for _ in range(3):  # a refused append asks for room, the next job makes it
        try:
            driver.append(payload(RNG, 1000))
        except DiskFullError:
            driver.now = driver.snapshots[-2]
            driver.snapshots.pop()
            assert driver.wal.dirty, "a refused append with room on the disk asks for a job"
            driver.sync()
        else:
            accepted = True
            break
    assert accepted
    driver.sync()
    driver.check_live()


@pytest.mark.req("CL-4")
def test_a_reset_fits_a_full_disk_and_frees_it() -> None:
    disk, driver = fresh(segments=6)
    fill(driver)
    driver.save_hard_state(5, None)
    driver.reset_to(1_000, 5)
    driver.sync()
    assert disk.free_bytes(DIRECTORY) >= SEGMENT_BYTES
    driver.append(payload(RNG, 1000))
    driver.sync()
    assert read_back(open_log(disk)[0]).same_log(driver.now)


@pytest.mark.req("CL-4")
def test_a_log_opens_on_a_full_disk_and_a_new_one_says_there_is_no_room() -> None:
    disk, driver = fresh(segments=6)
    fill(driver)
    into_the_reserve(driver)
    driver.wal.close()
    disk.set_capacity(0)
    wal, _ = open_log(disk)
    assert read_back(wal).same_log(driver.now)
    with pytest.raises(DiskFullError):
        wal.append([LogEntry(Index(wal.last_index + 1), wal.hard_state.term, payload(RNG, 1000))])
    wal.save_hard_state(HardState(Term(99), NodeId("n3")))
    wal.sync()
    with pytest.raises(DiskFullError):
        open_log(SimDisk(random.Random(1), SEGMENT_BYTES // 2))


@pytest.mark.req("CL-4")
def test_a_disk_that_fills_at_any_moment_loses_nothing() -> None:
    for segments in range(3, 14):
        for seed in range(4):
            disk, driver = fresh(seed, segments)
            try:
                scripted(driver)
            except DiskFullError:
                driver.snapshots.pop()  # the entry that was refused
                while len(driver.snapshots) > 1 and driver.snapshots[-1].last_index > driver.wal.last_index:
                    driver.snapshots.pop()
            wal = driver.wal
            wal.save_hard_state(HardState(Term(50), NodeId("n1")))
            wal.sync()
            live = read_back(wal)
            disk.crash()
            assert read_back(open_log(disk)[0]).same_log(live)


# --- order ---------------------------------------------------------------------------------------------


@pytest.mark.req("CL-2")
def test_every_write_is_synced_before_it_counts_and_every_name_before_it_is_used() -> None:
    """Walks the recorded operations: at `finish`, no write of the log is without a sync behind it, and a segment's
    name was synced, after its content, before anything was written to it under that name."""
    disk = SimDisk(random.Random(1))
    disk.recording = True
    driver = Driver(open_log(disk)[0])
    finish = driver.wal.finish
    checked = 0

    def checking(job: object) -> None:
        nonlocal checked
        checked += 1
        unsynced: set[str] = set()
        unnamed: set[str] = set()
        for one in disk.operations:
            if one.path.endswith((".wal", ".zero", ".zero.tmp")):
                if one.name == "pwrite":
                    assert one.path not in unnamed, f"{one.path} was used before its name was durable"
                    unsynced.add(one.path)
                elif one.name in ("fdatasync", "fsync"):
                    unsynced.discard(one.path)
                elif one.name == "rename":
                    assert not unsynced, f"{one.path} got its name before {unsynced} was durable"
                    unnamed.add(one.path)
            elif one.name == "fsync_dir":
                unnamed.clear()
        assert not unsynced and not unnamed
        finish(job)  # type: ignore[arg-type]

    driver.wal.finish = checking  # type: ignore[method-assign]
    scripted(driver)
    assert checked > 10
    names = [one.name for one in disk.operations]
    assert names.count("rename") > 6 and names.count("unlink") >= 2


@pytest.mark.req("CL-2")
def test_open_syncs_the_directory_before_it_writes() -> None:
    """A killed process may have named a segment and not synced the name: what is written there must not hang on it."""
    disk, driver = fresh()
    driver.append(payload(RNG, 2000))
    driver.sync()
    disk.recording = True
    open_log(disk)
    names = [(one.name, one.path) for one in disk.operations]
    first_write = next(at for at, (name, _) in enumerate(names) if name == "pwrite")
    assert ("fsync_dir", DIRECTORY) in names[:first_write]


def test_a_pool_file_that_began_to_be_a_segment_is_not_used_again() -> None:
    """The power was cut between writing the head of a new segment and naming it."""
    disk, driver = fresh()
    driver.append(payload(RNG, 1000))
    driver.sync()
    left = [name for name in disk.listdir(DIRECTORY) if name.endswith(".zero")]
    for name in left:
        file = disk.open(f"{DIRECTORY}/{name}")
        file.pwrite(b"the head of a segment", 1500)
        file.fsync()
    wal, _ = open_log(disk)
    assert not set(left) & set(disk.listdir(DIRECTORY))
    driver = Driver(wal)
    driver.append(*(payload(RNG, 2000) for _ in range(6)))
    driver.sync()
    wal, report = open_log(disk)
    assert report.torn_bytes == 0 and read_back(wal).same_log(driver.now)


@pytest.mark.req("CL-2")
def test_a_new_segments_file_is_synced_in_full_not_only_its_data() -> None:
    disk, driver = fresh()
    disk.recording = True
    for _ in range(12):
        driver.append(payload(RNG, 2000))
        driver.sync()
    for at, one in enumerate(disk.operations):
        if one.name == "rename" and one.path.endswith(".wal"):
            assert disk.operations[at - 1].name == "fsync"
            assert disk.operations[at + 1].name == "fsync_dir"
            break
    else:
        pytest.fail("no segment was made")


@pytest.mark.req("CL-3")
def test_a_torn_tail_is_reported_in_words_and_does_not_come_back() -> None:
    reported = 0
    for seed in range(60):
        disk, driver = fresh(seed)
        driver.append(payload(RNG, 100))
        driver.sync()
        driver.append(*(payload(RNG, 1000) for _ in range(4)))
        disk.cut_power_at(2)
        with pytest.raises(PowerCut):
            driver.sync()
        disk.crash()
        wal, report = open_log(disk)
        driver.check_recovered(read_back(wal))
        if report.torn_bytes:
            reported += 1
            assert "behind entry 1" in report.torn_entries_hint and "segment 1" in report.torn_entries_hint
            with contextlib.suppress(PowerCut):
                disk.crash()
            assert open_log(disk)[1].torn_bytes == 0
    assert reported > 20
