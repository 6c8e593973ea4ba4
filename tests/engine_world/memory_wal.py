"""A `WriteAheadLog` whose disk is memory, for tests of the engine.

Owns: the same contract as the log on disk: mutations are buffered in order, belong to a generation, and are on the
"disk" only when a job's run() has returned. A crash keeps what was run, and of an unfinished group any prefix.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypercluster.errors import DiskFailedError, DiskFullError, check
from hypercluster.storage.wal.types import HardState, LogEntry, SyncJob
from hypercluster.values import Index, NodeId, Term


@dataclass
class LogImage:
    """What is on the disk, or what a reader sees; entries[i] has index base_index + 1 + i."""

    base_index: int = 0
    base_term: int = 0
    entries: list[LogEntry] = field(default_factory=list)
    hard_state: HardState = field(default_factory=lambda: HardState(Term(0), None))
    commit_index: int = 0

    def copy(self) -> LogImage:
        return LogImage(self.base_index, self.base_term, list(self.entries), self.hard_state, self.commit_index)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)


@dataclass
class LogDisk:
    """Survives crashes. `full` refuses appends; `broken` fails syncs; `groups` counts what was synced."""

    image: LogImage = field(default_factory=LogImage)
    full: bool = False
    broken: bool = False
    groups: int = 0


Mutation = Callable[[LogImage], None]


class MemoryJob:
    def __init__(self, disk: LogDisk, generation: int, mutations: list[Mutation], last: int) -> None:
        self._disk = disk
        self._generation = generation
        self.mutations = mutations
        self.last = last

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def bytes_total(self) -> int:
        return len(self.mutations)

    def run(self) -> None:
        if self._disk.broken:
            raise DiskFailedError("fdatasync failed")
        for mutation in self.mutations:
            mutation(self._disk.image)
        self._disk.groups += 1


class MemoryWal:
    def __init__(self, disk: LogDisk) -> None:
        self.disk = disk
        self._seen = disk.image.copy()
        self._seen.commit_index = min(max(self._seen.commit_index, self._seen.base_index), self._seen.last_index)
        self._generation = 1
        self._durable_generation = 0
        self._durable = self._seen.last_index
        self._buffer: list[Mutation] = []
        self._dirty = False
        self._job: MemoryJob | None = None

    def crash(self, rng: random.Random | None = None) -> None:
        """Unsynced mutations are lost; with `rng`, a random prefix of them made it to the disk (in order)."""
        pending = [*(self._job.mutations if self._job is not None else []), *self._buffer]
        for mutation in pending[: rng.randint(0, len(pending))] if rng is not None else []:
            mutation(self.disk.image)

    @property
    def base_index(self) -> Index:
        return Index(self._seen.base_index)

    @property
    def base_term(self) -> Term:
        return Term(self._seen.base_term)

    @property
    def last_index(self) -> Index:
        return Index(self._seen.last_index)

    @property
    def last_term(self) -> Term:
        return self._seen.entries[-1].term if self._seen.entries else self.base_term

    @property
    def durable_index(self) -> Index:
        return Index(min(self._durable, self._seen.last_index))

    @property
    def hard_state(self) -> HardState:
        return self._seen.hard_state

    @property
    def commit_index(self) -> Index:
        return Index(self._seen.commit_index)

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def durable_generation(self) -> int:
        return self._durable_generation

    @property
    def dirty(self) -> bool:
        return self._dirty

    def _mutate(self, mutation: Mutation, *, dirty: bool = True) -> None:
        mutation(self._seen)
        self._buffer.append(mutation)
        self._dirty = self._dirty or dirty

    def append(self, entries: list[LogEntry]) -> None:
        if self.disk.full:
            raise DiskFullError("no room for entries")
        for entry in entries:
            check(entry.index == self.last_index + 1, f"entry {entry.index} does not follow {self.last_index}")

            def add(image: LogImage, entry: LogEntry = entry) -> None:
                if entry.index == image.last_index + 1:
                    image.entries.append(entry)

            self._mutate(add)

    def truncate_from(self, index: Index) -> None:
        check(index > max(self.commit_index, self.base_index), f"truncating at {index}, below the commit index")

        def cut(image: LogImage) -> None:
            del image.entries[max(index - image.base_index - 1, 0) :]

        self._mutate(cut)
        self._durable = min(self._durable, index - 1)
        if self._job is not None:
            self._job.last = min(self._job.last, index - 1)

    def save_hard_state(self, state: HardState) -> None:
        check(state.term >= self.hard_state.term, "the term never falls")

        def save(image: LogImage) -> None:
            image.hard_state = state

        self._mutate(save)

    def save_commit_index(self, index: Index) -> None:
        def save(image: LogImage) -> None:
            image.commit_index = max(image.commit_index, index)

        self._mutate(save, dirty=False)

    def compact_to(self, index: Index) -> None:
        check(index <= self.last_index, "compaction stays within the log")
        term = self.term_at(index)
        if term is None or index <= self.base_index:
            return

        def compact(image: LogImage) -> None:
            del image.entries[: max(index - image.base_index, 0)]
            image.base_index, image.base_term = index, term

        self._mutate(compact)

    def reset_to(self, index: Index, term: Term) -> None:
        def reset(image: LogImage) -> None:
            image.entries.clear()
            image.base_index, image.base_term = index, term
            image.commit_index = max(image.commit_index, index)

        self._mutate(reset)
        self._durable = index
        if self._job is not None:
            self._job.last = min(self._job.last, index)

    def entry(self, index: Index) -> LogEntry:
        check(self.base_index < index <= self.last_index, f"entry {index} is not in the log")
        return self._seen.entries[index - self.base_index - 1]

    def entries(self, first: Index, bytes_max: int) -> list[LogEntry]:
        check(first > self.base_index, "reading below the base")
        found: list[LogEntry] = []
        size_bytes = 0
        for entry in self._seen.entries[first - self.base_index - 1 :]:
            if found and size_bytes + len(entry.payload) > bytes_max:
                break
            size_bytes += len(entry.payload) if found else 0
            found.append(entry)
        return found

    def term_at(self, index: Index) -> Term | None:
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index <= self.last_index:
            return None
        return self._seen.entries[index - self.base_index - 1].term

    def take_job(self) -> MemoryJob | None:
        if self._job is not None or not self._dirty:
            return None
        self._job = MemoryJob(self.disk, self._generation, self._buffer, self.last_index)
        self._buffer, self._dirty = [], False
        self._generation += 1
        return self._job

    def finish(self, job: SyncJob) -> None:
        check(isinstance(job, MemoryJob) and job is self._job, "only the job that is out can finish")
        self._durable_generation = job.generation
        self._durable = max(self._durable, self._job.last if self._job is not None else 0)
        self._job = None

    def sync(self) -> None:
        job = self.take_job()
        if job is not None:
            job.run()
            self.finish(job)

    def close(self) -> None:
        self._job = None


def voted(term: int, node_id: str | None) -> HardState:
    return HardState(Term(term), None if node_id is None else NodeId(node_id))
