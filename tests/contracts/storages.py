"""Node storage, real and simulated, as the checkpoint contract sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.storage.node_storage import NodeStorage
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import Done, Job
from hypercluster.values import (
    ChunkHash,
    Digest,
    HistoryId,
    Incarnation,
    Index,
    Member,
    Membership,
    NodeId,
    Suffrage,
    Term,
)
from tests.fakes.memory_storage import MemoryNodeStorage

HISTORY = HistoryId(b"H" * 16)
MEMBERSHIP = Membership(Index(1), 3, (Member(NodeId("n1"), Incarnation(b"I" * 16), "127.0.0.1:1", Suffrage.VOTER),))
AFTER_ALL = b"\xff" * 40

Storage = NodeStorage | MemoryNodeStorage


class StepRunner:
    """Jobs wait until the test runs them, one by one."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Job, Done]] = []

    def submit(self, job: Job, done: Done) -> None:
        self.jobs.append((job, done))

    def step(self) -> bool:
        if not self.jobs:
            return False
        job, done = self.jobs.pop(0)
        try:
            job()
        except BaseException as error:  # the owner decides, as with every other runner
            done(error)
        else:
            done(None)
        return True

    def run(self) -> None:
        while self.step():
            pass


def referenced(reader: Reader) -> Iterator[bytes]:
    """The tests keep one record for each chunk, its hash the key."""
    return (key for key, _ in reader.scan(Family.CHUNKS, b"", AFTER_ALL) if len(key) == 32)


def refuse_fatal(error: BaseException) -> None:
    raise error


class RealNode:
    """Over a directory. `crash` is a close without a flush: the process-killing tests are in tests/crash."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runner = StepRunner()
        self.storage: Storage = self._open()

    def _open(self) -> NodeStorage:
        return NodeStorage(
            str(self.directory),
            HISTORY,
            chunk_runner=self.runner,
            checkpoint_runner=self.runner,
            referenced_hashes=referenced,
            on_fatal=refuse_fatal,
            settings=RocksSettings(flush_bytes=1 << 20, block_cache_bytes=1 << 20),
        )

    def reopen(self) -> None:
        self.storage.close()
        self.runner.jobs.clear()
        self.storage = self._open()


class SimulatedNode:
    def __init__(self, _directory: Path) -> None:
        self.runner = StepRunner()
        self.storage: Storage = MemoryNodeStorage(HISTORY, self.runner, referenced)

    def reopen(self) -> None:
        self.storage.close()
        self.runner.jobs.clear()
        self.storage.crash()  # type: ignore[union-attr]


Node = RealNode | SimulatedNode
NODES: dict[str, Callable[[Path], Node]] = {"real": RealNode, "simulated": SimulatedNode}


def chunk(text: str) -> tuple[ChunkHash, bytes]:
    content = text.encode() * 100
    return ChunkHash(blake3(content).digest()), content


def commit(node: Node, index: int, *, chunk_text: str | None = None, term: int = 1) -> None:
    """One entry: a pair in every family that names the index, and perhaps a chunk."""
    changes = [Change(family, b"at", b"%d" % index) for family in Family if family is not Family.CHUNKS]
    changes.append(Change(Family.HUB, b"key-%06d" % index, b"value of %d" % index))
    if chunk_text is not None:
        chunk_hash, content = chunk(chunk_text)
        node.storage.chunks.put(chunk_hash, content)
        changes.append(Change(Family.CHUNKS, chunk_hash, b"here"))
    node.storage.store.commit(Index(index), Term(term), Digest(bytes([index % 256]) * 32), changes, index * 10)


def state_of(node: Node) -> list[tuple[Family, bytes, bytes]]:
    return [(family, *pair) for family in Family for pair in node.storage.store.scan(family, b"", AFTER_ALL)]
