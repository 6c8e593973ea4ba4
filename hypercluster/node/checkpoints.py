"""Checkpoints as the engine is given them: an install also makes the apply loop start over from what is there.

Owns: the one call between storage and apply loop that neither may make itself.
Never: anything else; every other call goes through as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from hypercluster.raft.engine import CheckpointReceiver, Checkpoints
from hypercluster.values import CheckpointMeta, Index, Membership, Term


class AnnouncedCheckpoints:
    """`raft.engine.Checkpoints` around another; `installed` is called after the state was replaced."""

    def __init__(self, inner: Checkpoints, installed: Callable[[], None]) -> None:
        self._inner = inner
        self._installed = installed

    def latest(self) -> CheckpointMeta | None:
        return self._inner.latest()

    def create(
        self, index: Index, term: Term, membership: Membership, done: Callable[[CheckpointMeta | None], None]
    ) -> None:
        self._inner.create(index, term, membership, done)

    def read_piece(self, checkpoint_id: str, offset: int, bytes_max: int) -> bytes | None:
        return self._inner.read_piece(checkpoint_id, offset, bytes_max)

    def receive(self, meta: CheckpointMeta) -> CheckpointReceiver:
        return _AnnouncedReceiver(self._inner.receive(meta), self._installed)


class _AnnouncedReceiver:
    def __init__(self, inner: CheckpointReceiver, installed: Callable[[], None]) -> None:
        self._inner = inner
        self._installed = installed

    def write(self, offset: int, piece: bytes) -> None:
        self._inner.write(offset, piece)

    def verify(self) -> None:
        self._inner.verify()

    def missing_chunks(self, count_max: int) -> list[bytes]:
        return self._inner.missing_chunks(count_max)

    def add_chunk(self, chunk_hash: bytes, content: bytes) -> None:
        self._inner.add_chunk(chunk_hash, content)

    def install(self) -> None:
        self._inner.install()
        self._installed()

    def abort(self) -> None:
        self._inner.abort()
