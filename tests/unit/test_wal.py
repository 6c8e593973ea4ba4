"""The contract of the log on a disk that works: storage/wal/types.py, line by line."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from hypercluster.errors import InvariantError, TooLargeError
from hypercluster.limits import ENTRY_BYTES_MAX
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.wal import HardState, LogEntry, Wal, WriteAheadLog
from hypercluster.values import Index, NodeId, Term
from tests.crash.wal_model import DIRECTORY, SEGMENT_BYTES, Driver, drawn, open_log, payload, read_back
from tests.simulation.sim_disk import SimDisk


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk(random.Random(1))


@pytest.fixture
def wal(disk: SimDisk) -> Wal:
    return open_log(disk)[0]


def entries(first: int, *payloads: bytes, term: int = 1) -> list[LogEntry]:
    return [LogEntry(Index(first + at), Term(term), content) for at, content in enumerate(payloads)]


def test_a_new_log_is_empty(wal: Wal) -> None:
    log: WriteAheadLog = wal
    assert (log.base_index, log.base_term, log.last_index, log.last_term) == (0, 0, 0, 0)
    assert (log.durable_index, log.commit_index, log.hard_state) == (0, 0, HardState(Term(0), None))
    assert not log.dirty and log.take_job() is None
    assert log.term_at(Index(0)) == 0 and log.term_at(Index(1)) is None
    assert log.entries(Index(1), 100) == []


def test_the_report_of_open(disk: SimDisk, wal: Wal) -> None:
    driver = Driver(wal)
    driver.save_hard_state(1, None)
    driver.append(*(payload(random.Random(1), 1500) for _ in range(9)))
    driver.sync()
    driver.compact_to(1)
    driver.sync()
    _, report = open_log(disk)
    assert (report.segments, report.first_index, report.last_index) == (3, 2, 9)
    assert (report.torn_bytes, report.torn_entries_hint) == (0, "")


def test_buffered_mutations_are_seen_at_once(wal: Wal) -> None:
    wal.append(entries(1, b"a", b"b", b"c"))
    assert wal.last_index == 3 and wal.durable_index == 0 and wal.dirty
    assert wal.entry(Index(2)).payload == b"b"
    wal.truncate_from(Index(2))
    wal.append(entries(2, b"B", term=2))
    assert wal.entry(Index(2)) == LogEntry(Index(2), Term(2), b"B")
    assert wal.term_at(Index(2)) == 2 and wal.term_at(Index(3)) is None


@pytest.mark.req("CL-2", "CL-6")
def test_generations(wal: Wal) -> None:
    assert (wal.generation, wal.durable_generation) == (1, 0)
    wal.append(entries(1, b"a"))
    job = wal.take_job()
    assert job is not None and job.generation == 1 and job.bytes_total > 0
    assert wal.generation == 2 and not wal.dirty
    wal.append(entries(2, b"b"))
    assert wal.take_job() is None, "one job is out at a time"
    job.run()
    assert (wal.durable_generation, wal.durable_index) == (0, 0), "only finish makes it durable"
    wal.finish(job)
    assert (wal.durable_generation, wal.durable_index) == (1, 1)
    second = wal.take_job()
    assert second is not None and second.generation == 2
    with pytest.raises(InvariantError):
        wal.finish(second)
    second.run()
    with pytest.raises(InvariantError):
        second.run()
    with pytest.raises(InvariantError):
        wal.finish(job)
    wal.finish(second)
    assert wal.durable_index == 2


@pytest.mark.req("CL-5")
def test_a_truncation_lowers_durable_index_also_for_the_job_that_is_out(wal: Wal) -> None:
    wal.append(entries(1, b"a", b"b", b"c"))
    wal.sync()
    wal.append(entries(4, b"d", b"e"))
    job = wal.take_job()
    assert job is not None
    wal.truncate_from(Index(2))
    assert wal.durable_index == 1
    wal.append(entries(2, b"B", b"C", b"D", term=2))
    job.run()
    wal.finish(job)
    assert wal.durable_index == 1, "what the job wrote above is no longer in the log"
    wal.sync()
    assert wal.durable_index == 4
    assert [one.payload for one in wal.entries(Index(1), 100)] == [b"a", b"B", b"C", b"D"]


def test_a_reset_is_not_durable_before_its_sync(wal: Wal) -> None:
    wal.append(entries(1, b"a", b"b"))
    wal.sync()
    wal.reset_to(Index(10), Term(3))
    assert (wal.base_index, wal.last_index, wal.last_term, wal.durable_index) == (10, 10, 3, 0)
    wal.append(entries(11, b"k", term=4))
    wal.sync()
    assert wal.durable_index == 11
    assert wal.term_at(Index(10)) == 3 and wal.term_at(Index(9)) is None


def test_a_commit_index_alone_makes_nothing_dirty(disk: SimDisk, wal: Wal) -> None:
    wal.append(entries(1, b"a", b"b"))
    wal.sync()
    wal.save_commit_index(Index(2))
    assert wal.commit_index == 2 and not wal.dirty and wal.take_job() is None
    wal.append(entries(3, b"c"))
    wal.sync()
    assert open_log(disk)[0].commit_index == 2


def test_entries_are_bounded_by_bytes_and_give_at_least_one(wal: Wal) -> None:
    wal.append(entries(1, *(b"x" * 100 for _ in range(30))))
    wal.sync()
    for first in (1, 20):  # from disk, and from the cache
        assert [one.index for one in wal.entries(Index(first), 0)] == [first]
        assert [one.index for one in wal.entries(Index(first), 299)] == [first, first + 1]
        assert [one.index for one in wal.entries(Index(first), 300)] == [first, first + 1, first + 2]
    assert wal.entries(Index(31), 100) == []


@pytest.mark.req("CL-3")
def test_the_cache_is_bounded_and_older_entries_come_from_disk(wal: Wal) -> None:
    rng = random.Random(3)
    payloads = [payload(rng, 300) for _ in range(60)]
    wal.append(entries(1, *payloads))
    assert wal._cache.bytes_total > 2_000, "what is not durable is kept, whatever its size"
    wal.sync()
    assert wal._cache.bytes_total <= 2_000
    held = wal._cache.bytes_total
    wal.append(entries(61, b"x" * 100, b"y" * 100))
    wal.truncate_from(Index(61))
    assert wal._cache.bytes_total <= held, "what is truncated is forgotten"
    assert [one.payload for one in wal.entries(Index(1), 10**6)] == payloads


@pytest.mark.req("CL-5")
def test_what_would_lose_committed_entries_is_an_invariant(wal: Wal) -> None:
    wal.append(entries(1, b"a", b"b", b"c"))
    wal.save_commit_index(Index(2))
    for bad in (1, 2):
        with pytest.raises(InvariantError, match="truncation"):
            wal.truncate_from(Index(bad))
    with pytest.raises(InvariantError, match="reset"):
        wal.reset_to(Index(1), Term(1))
    with pytest.raises(InvariantError, match="commit"):
        wal.save_commit_index(Index(4))
    with pytest.raises(InvariantError, match="compaction"):
        wal.compact_to(Index(4))
    wal.save_commit_index(Index(1))
    assert wal.commit_index == 2, "a commit index never falls"
    wal.compact_to(Index(2))
    with pytest.raises(InvariantError, match="truncation"):
        wal.truncate_from(Index(2))
    for gone in (1, 2, 4):
        with pytest.raises(InvariantError):
            wal.entry(Index(gone))


def test_entries_are_consecutive_and_terms_do_not_fall(wal: Wal) -> None:
    with pytest.raises(InvariantError, match="behind"):
        wal.append(entries(2, b"x"))
    wal.append(entries(1, b"x", term=5))
    with pytest.raises(InvariantError, match="term"):
        wal.append(entries(2, b"x", term=4))
    with pytest.raises(InvariantError, match="behind"):
        wal.append([*entries(2, b"y", term=5), *entries(4, b"z", term=5)])
    assert wal.last_index == 1, "nothing of a refused append is buffered"


def test_terms_and_votes_never_go_back(wal: Wal) -> None:
    wal.save_hard_state(HardState(Term(3), None))
    wal.save_hard_state(HardState(Term(3), NodeId("n1")))
    wal.sync()
    wal.save_hard_state(HardState(Term(3), NodeId("n1")))
    assert not wal.dirty, "what is already saved needs no sync"
    for bad in (HardState(Term(2), None), HardState(Term(3), NodeId("n2")), HardState(Term(3), None)):
        with pytest.raises(InvariantError):
            wal.save_hard_state(bad)


def test_limits_are_named(tmp_path: Path, wal: Wal) -> None:
    with pytest.raises(TooLargeError, match="voted_for"):
        wal.save_hard_state(HardState(Term(1), NodeId("x" * 256)))
    wal.save_hard_state(HardState(Term(1), NodeId("x" * 255)))
    with pytest.raises(TooLargeError, match="payload: 8000 bytes"):
        wal.append(entries(1, bytes(8000)))
    big, _ = Wal.open(PosixDisk(), f"{tmp_path}/wal", segment_bytes=4 << 20, reserve_bytes=0)
    with pytest.raises(TooLargeError):
        big.append(entries(1, bytes(ENTRY_BYTES_MAX + 1)))
    largest = entries(1, bytes(ENTRY_BYTES_MAX), bytes(ENTRY_BYTES_MAX))
    big.append(largest)
    big.sync()
    assert big.entries(Index(1), 10**8) == largest
    big.close()


def test_the_largest_entry_fits_an_empty_segment(disk: SimDisk, wal: Wal) -> None:
    largest = wal._entry_bytes_max
    wal.save_hard_state(HardState(Term(1), NodeId("n" * 255)))
    wal.append(entries(1, bytes(largest), bytes(largest)))
    wal.sync()
    assert [len(one.payload) for one in open_log(disk)[0].entries(Index(1), 10**6)] == [largest, largest]


def test_open_refuses_sizes_it_can_not_keep(disk: SimDisk) -> None:
    for segment_bytes in (4096, 8193, 2 << 30):
        with pytest.raises(InvariantError, match="segment_bytes"):
            Wal.open(disk, DIRECTORY, segment_bytes=segment_bytes)
    with pytest.raises(InvariantError, match="reserve_bytes"):
        Wal.open(disk, DIRECTORY, segment_bytes=SEGMENT_BYTES, reserve_bytes=-1)


APPENDS_BESIDE_A_SYNC = 500


@pytest.mark.req("CL-6")
def test_the_log_is_read_and_changed_while_another_thread_syncs(tmp_path: Path) -> None:
    wal, _ = open_log(PosixDisk(), f"{tmp_path}/wal")
    driver = Driver(wal)
    rng = random.Random(6)
    for _ in range(60):
        driver.append(*(payload(rng, 900) for _ in range(4)))
        job = driver.take()
        assert job is not None
        thread = threading.Thread(target=job.run)
        thread.start()
        for _ in range(APPENDS_BESIDE_A_SYNC):  # a disk that hangs would fill the pool of segments
            if not thread.is_alive():
                break
            if len(driver.now.entries) > 40:
                driver.compact_to(driver.now.last_index - 20)
            driver.truncate_from(driver.now.last_index)
            driver.append(payload(rng, 10))
            for entry in rng.sample(driver.now.entries, 3):
                assert wal.entry(entry.index) == entry
        thread.join()
        driver.finish(job)
        driver.check_live()
    driver.sync()
    wal.close()
    again, _ = open_log(PosixDisk(), f"{tmp_path}/wal")
    assert read_back(again).same_log(driver.now)
    again.close()


@pytest.mark.req("CL-7")
def test_whole_segments_below_the_base_are_deleted_and_hard_state_stays(disk: SimDisk, wal: Wal) -> None:
    driver = Driver(wal)
    driver.save_hard_state(7, "n2")
    for _ in range(20):
        driver.append(payload(random.Random(1), 2000))
        driver.sync()
    segments = [name for name in disk.listdir(DIRECTORY) if name.endswith(".wal")]
    assert len(segments) > 5
    driver.compact_to(19)
    assert [name for name in disk.listdir(DIRECTORY) if name.endswith(".wal")] == segments, "not on the loop"
    driver.sync()
    left = [name for name in disk.listdir(DIRECTORY) if name.endswith(".wal")]
    assert len(left) <= 2 and left == segments[-len(left) :]
    again = read_back(open_log(disk)[0])
    assert again == driver.now and again.hard_state == HardState(Term(7), NodeId("n2"))


def test_what_open_reads_is_what_was_written_over_many_random_lives(disk: SimDisk) -> None:
    for seed in range(40):
        print(f"seed {seed}")
        wal, report = open_log(disk)
        assert report.torn_bytes == 0
        driver = Driver(wal)
        drawn(driver, random.Random(seed), 30)
        wal.close()
        assert read_back(open_log(disk)[0]).same_log(driver.now)


def test_another_segment_size_is_taken_up_by_the_next_segment(disk: SimDisk, wal: Wal) -> None:
    driver = Driver(wal)
    driver.append(payload(random.Random(1), 2000))
    driver.sync()
    larger, _ = Wal.open(disk, DIRECTORY, segment_bytes=4 * SEGMENT_BYTES, reserve_bytes=0)
    driver = Driver(larger, driver.now)
    driver.append(*(payload(random.Random(2), 2500) for _ in range(8)))
    driver.sync()
    driver.check_live()
    assert read_back(open_log(disk)[0]).same_log(driver.now)
    sizes = {disk.open(f"{DIRECTORY}/{name}").size() for name in disk.listdir(DIRECTORY)}
    assert sizes >= {SEGMENT_BYTES, 4 * SEGMENT_BYTES}
