"""A state store in memory for the shell's tests: `StateStore`, `ChunkSink` and `Reader` over MemoryStore."""

from __future__ import annotations

from collections.abc import Iterable

from hypercluster.node.fanout import Fanout, OpLog
from hypercluster.state_machine.store import Change, MemoryStore
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ChunkHash, Digest, Index, Term
from tests.fakes.virtual_turns import VirtualTurns


class MemoryState(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.committed: list[Index] = []
        self.chunks: dict[bytes, bytes] = {}
        self.stalls = False

    def commit(
        self, index: Index, term: Term, digest: Digest, changes: Iterable[Change], last_stamp_ns: int = 0
    ) -> None:
        self.write(changes)
        self.committed.append(index)

    def stalled(self) -> bool:
        return self.stalls

    def put(self, chunk_hash: ChunkHash, content: bytes) -> bool:
        self.chunks[chunk_hash] = content
        return True


def no_fanout(turns: VirtualTurns, metrics: Metrics) -> Fanout:
    op_log = OpLog(lambda _: None, lambda _: 0, lambda *_: None, lambda _: (0, 0))
    return Fanout(op_log, turns, metrics, lambda _: b"")
