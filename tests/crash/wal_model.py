"""What a log must hold, written from the contract alone, and a driver that moves log and model together.

Owns: `Snapshot`, `Driver`. Used by the tests of the write-ahead log.
The driver keeps a snapshot after every single mutation. After a crash the log must equal one of them: at or behind
the last one that `finish` covered, at or before the newest. Nothing else is allowed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from hypercluster.storage.disk import Disk
from hypercluster.storage.wal import HardState, LogEntry, OpenReport, SyncJob, Wal
from hypercluster.values import NO_INDEX, NO_TERM, Index, NodeId, Term

DIRECTORY = "/log/wal"
SEGMENT_BYTES = 8 * 1024
NOTHING_SAVED = HardState(NO_TERM, None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    hard_state: HardState = NOTHING_SAVED
    base_index: Index = NO_INDEX
    base_term: Term = NO_TERM
    commit_index: Index = NO_INDEX
    entries: tuple[LogEntry, ...] = ()

    @property
    def last_index(self) -> Index:
        return Index(self.base_index + len(self.entries))

    def same_log(self, other: Snapshot) -> bool:
        """Equal but for the commit index, which is a hint that may be older."""
        return replace(self, commit_index=NO_INDEX) == replace(other, commit_index=NO_INDEX)


def read_back(wal: Wal) -> Snapshot:
    """Everything the log holds, read through its public face."""
    entries = [wal.entry(Index(index)) for index in range(wal.base_index + 1, wal.last_index + 1)]
    for entry in entries:
        assert wal.term_at(entry.index) == entry.term
    assert wal.term_at(wal.base_index) == wal.base_term
    assert wal.term_at(Index(wal.last_index + 1)) is None
    assert wal.last_term == (entries[-1].term if entries else wal.base_term)
    assert wal.base_index <= wal.commit_index <= wal.last_index
    return Snapshot(wal.hard_state, wal.base_index, wal.base_term, wal.commit_index, tuple(entries))


def open_log(disk: Disk, directory: str = DIRECTORY, tail_cache_bytes: int = 2_000) -> tuple[Wal, OpenReport]:
    """Small segments and a cache that holds a few entries, so that rolling and reading back happen all the time."""
    return Wal.open(
        disk, directory, segment_bytes=SEGMENT_BYTES, reserve_bytes=SEGMENT_BYTES, tail_cache_bytes=tail_cache_bytes
    )


class Driver:
    """Every mutation goes to the log and to the model."""

    def __init__(self, wal: Wal, now: Snapshot | None = None) -> None:
        self.wal = wal
        self.now = now or read_back(wal)
        self.snapshots = [self.now]
        self.finished = 0  # position in snapshots that a finished sync covers
        self._taken = 0
        self._written = 0

    def _step(self, after: Snapshot) -> None:
        self.now = after
        self.snapshots.append(after)

    def append(self, *payloads: bytes) -> None:
        term = self.now.hard_state.term
        new = [LogEntry(Index(self.now.last_index + 1 + at), term, payload) for at, payload in enumerate(payloads)]
        for entry in new:
            self._step(replace(self.now, entries=(*self.now.entries, entry)))
        self.wal.append(new)

    def truncate_from(self, index: int) -> None:
        keep = max(0, index - self.now.base_index - 1)
        self._step(replace(self.now, entries=self.now.entries[:keep]))
        self.wal.truncate_from(Index(index))

    def save_hard_state(self, term: int, voted_for: str | None) -> None:
        state = HardState(Term(term), None if voted_for is None else NodeId(voted_for))
        self._step(replace(self.now, hard_state=state))
        self.wal.save_hard_state(state)

    def save_commit_index(self, index: int) -> None:
        self._step(replace(self.now, commit_index=max(self.now.commit_index, Index(index))))
        self.wal.save_commit_index(Index(index))

    def compact_to(self, index: int) -> None:
        if index > self.now.base_index:
            term = self.now.entries[index - self.now.base_index - 1].term
            entries = self.now.entries[index - self.now.base_index :]
            commit = max(self.now.commit_index, Index(index))
            self._step(Snapshot(self.now.hard_state, Index(index), term, commit, entries))
        self.wal.compact_to(Index(index))

    def reset_to(self, index: int, term: int) -> None:
        self._step(Snapshot(self.now.hard_state, Index(index), Term(term), Index(index), ()))
        self.wal.reset_to(Index(index), Term(term))

    def take(self) -> SyncJob | None:
        job = self.wal.take_job()
        if job is not None:
            self._taken = len(self.snapshots) - 1
        return job

    def finish(self, job: SyncJob) -> None:
        # Raised first: the power may be cut inside, and then nothing has been promised.
        self.wal.finish(job)
        self.finished = self._taken

    def sync(self) -> None:
        while (job := self.take()) is not None:
            job.run()
            self.finish(job)

    def check_live(self) -> None:
        assert read_back(self.wal).same_log(self.now)
        assert self.wal.durable_index <= self.wal.last_index

    def check_recovered(self, found: Snapshot) -> None:
        """`found` was read after a crash: it is one of the states that were allowed to survive."""
        allowed = self.snapshots[self.finished :]
        matching = [one for one in allowed if found.same_log(one)]
        assert matching, f"recovered {describe(found)}, allowed {[describe(one) for one in allowed]}"
        assert found.commit_index <= max(one.commit_index for one in matching), "a commit index nobody saved"


def describe(one: Snapshot) -> str:
    entries = ",".join(f"{entry.index}/{entry.term}/{len(entry.payload)}" for entry in one.entries)
    return f"[{one.hard_state} base {one.base_index}/{one.base_term} commit {one.commit_index} {entries}]"


Step = Callable[[Driver], None]


def payload(rng: random.Random, size_bytes: int) -> bytes:
    return b"\x10\x00" + rng.randbytes(size_bytes)


def scripted(driver: Driver) -> None:
    """Everything the log can do, in an order that crosses segments, with several mutations in most syncs."""
    rng = random.Random(5)
    driver.save_hard_state(1, "n1")
    driver.sync()
    driver.append(payload(rng, 40), payload(rng, 900), payload(rng, 40))
    driver.save_commit_index(2)
    driver.sync()
    driver.append(*(payload(rng, 700) for _ in range(3)))
    job = driver.take()
    assert job is not None
    driver.truncate_from(5)  # while the entries it removes are being written
    driver.append(payload(rng, 30))
    job.run()
    driver.finish(job)
    driver.check_live()
    driver.save_hard_state(2, None)
    driver.save_hard_state(2, "n3")
    driver.sync()
    driver.truncate_from(4)
    driver.append(*(payload(rng, 1500) for _ in range(8)))  # crosses a segment inside one sync
    driver.save_commit_index(6)
    driver.sync()
    driver.check_live()
    driver.compact_to(5)
    driver.append(payload(rng, 2000), payload(rng, 2000))
    driver.sync()
    driver.compact_to(driver.now.last_index)
    driver.sync()
    driver.append(payload(rng, 10), payload(rng, 10))
    driver.sync()
    driver.save_hard_state(4, "n2")
    driver.reset_to(40, 3)
    driver.append(payload(rng, 300))
    driver.sync()
    driver.check_live()
    driver.append(*(payload(rng, 1800) for _ in range(6)))
    driver.sync()
    driver.truncate_from(43)
    driver.sync()
    driver.compact_to(42)
    driver.sync()
    driver.check_live()


def drawn(driver: Driver, rng: random.Random, steps: int) -> None:
    """`steps` random mutations and syncs; jobs stay out while others are buffered."""
    job: SyncJob | None = None
    for _ in range(steps):
        now = driver.now
        match rng.choice(
            ["append", "append", "append", "truncate", "hard", "commit", "compact", "reset", "job", "job"]
        ):
            case "append":
                driver.append(*(payload(rng, rng.choice([0, 5, 300, 2500])) for _ in range(rng.randint(1, 4))))
            case "truncate" if now.last_index > now.commit_index:
                driver.truncate_from(rng.randint(now.commit_index + 1, now.last_index))
            case "hard":
                term = now.hard_state.term + 1
                driver.save_hard_state(term, rng.choice([None, "n1", "node-two"]))
            case "commit":
                driver.save_commit_index(rng.randint(now.commit_index, now.last_index))
            case "compact":
                driver.compact_to(rng.randint(now.base_index, max(now.base_index, now.commit_index)))
            case "reset" if rng.random() < 0.2:
                driver.reset_to(now.last_index + rng.randint(0, 5), now.hard_state.term)
            case "job":
                if job is not None:
                    job.run()
                    driver.finish(job)
                    driver.check_live()
                job = driver.take()
            case _:
                pass
    if job is not None:
        job.run()
        driver.finish(job)
    driver.sync()
    driver.check_live()
