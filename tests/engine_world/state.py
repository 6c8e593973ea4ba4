"""A replicated state for tests of the engine: the history of what was applied, with a digest and checkpoints.

Owns: `HistoryHost` (Host), `MemoryCheckpoints` and its receiver. State survives a crash only as far as it was
flushed; a checkpoint is the history in bytes behind its BLAKE3, so that damage is found by `verify`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from blake3 import blake3

from hypercluster.errors import DamagedError
from hypercluster.raft.engine import CheckpointMeta
from hypercluster.values import ZERO_DIGEST, Digest, Index, Membership, Term

ROW = struct.Struct("<QQI")


@dataclass
class StateDisk:
    """Survives crashes: flushed history, its applied index, and the latest checkpoint with its bytes."""

    history: list[tuple[int, int, bytes]] = field(default_factory=list)
    applied: int = 0
    latest: CheckpointMeta | None = None
    content: bytes = b""
    chunks: dict[bytes, bytes] = field(default_factory=dict)


def pack(history: list[tuple[int, int, bytes]]) -> bytes:
    body = b"".join(ROW.pack(index, term, len(payload)) + payload for index, term, payload in history)
    return blake3(body).digest() + body


def unpack(content: bytes) -> list[tuple[int, int, bytes]]:
    if blake3(content[32:]).digest() != content[:32]:
        raise DamagedError("the checkpoint does not match its digest")
    history, at = [], 32
    while at < len(content):
        index, term, size = ROW.unpack_from(content, at)
        at += ROW.size
        history.append((index, term, content[at : at + size]))
        at += size
    return history


class HistoryHost:
    def __init__(self, disk: StateDisk, on_apply: Callable[[int, int, bytes], None]) -> None:
        self.disk = disk
        self.history = list(disk.history)
        self._applied = disk.applied
        self._on_apply = on_apply
        self._digests: dict[int, Digest] = {}
        self._digest = ZERO_DIGEST
        for _, _, payload in self.history:
            self._fold(payload)
        self._digests[self._applied] = self._digest
        self.is_ready = True
        self.poison: bytes | None = None
        self.twist = b""  # a defect in this node's apply: its digests differ
        self.contexts: list[object] = []
        self.installed = 0

    def _fold(self, payload: bytes) -> None:
        self._digest = Digest(blake3(self._digest + payload).digest())

    @property
    def applied_index(self) -> Index:
        return Index(self._applied)

    def apply(self, index: Index, term: Term, payload: bytes, context: object) -> object:
        if self.poison is not None and self.poison in payload:
            raise ValueError("a defect in apply")
        self._on_apply(index, term, payload)
        self.contexts.append(context)
        self.history.append((index, term, payload))
        self._fold(payload + self.twist)
        self._applied = index
        self._digests[index] = self._digest
        return ("applied", index)

    def advance(self, index: Index, term: Term) -> None:
        self._on_apply(index, term, b"")
        self._applied = index
        self._digests[index] = self._digest

    def digest_at(self, index: Index) -> Digest | None:
        return self._digests.get(index)

    def ready(self) -> bool:
        return self.is_ready

    def flush(self) -> None:
        self.disk.history, self.disk.applied = list(self.history), self._applied

    def load(self, meta: CheckpointMeta, history: list[tuple[int, int, bytes]]) -> None:
        self.installed += 1
        self.history, self._applied, self._digest = history, meta.index, meta.digest
        self._digests = {meta.index: meta.digest}
        self.flush()


class MemoryCheckpoints:
    def __init__(self, host: HistoryHost, name: str) -> None:
        self._host, self._name = host, name
        self.damage_next = False  # a bit flips on the receiving side's disk
        self.fail_install = False
        self.missing: list[bytes] = []  # chunk hashes that a received checkpoint refers to

    def latest(self) -> CheckpointMeta | None:
        return self._host.disk.latest

    def create(
        self, index: Index, term: Term, membership: Membership, done: Callable[[CheckpointMeta | None], None]
    ) -> None:
        host = self._host
        host.flush()
        content = pack(host.history)
        digest = host.digest_at(index) or ZERO_DIGEST
        meta = CheckpointMeta(
            f"{self._name}-{index}-{term}", index, term, digest, membership, len(content), last_stamp_ns=index
        )
        host.disk.latest, host.disk.content = meta, content
        done(meta)

    def read_piece(self, checkpoint_id: str, offset: int, bytes_max: int) -> bytes | None:
        latest = self._host.disk.latest
        if latest is None or latest.checkpoint_id != checkpoint_id:
            return None
        return self._host.disk.content[offset : offset + bytes_max]

    def receive(self, meta: CheckpointMeta) -> MemoryReceiver:
        receiver = MemoryReceiver(self._host, meta, self)
        receiver.damaged, self.damage_next = self.damage_next, False
        return receiver

    def read_chunk(self, chunk_hash: bytes) -> bytes | None:
        return self._host.disk.chunks.get(chunk_hash)


class MemoryReceiver:
    def __init__(self, host: HistoryHost, meta: CheckpointMeta, owner: MemoryCheckpoints) -> None:
        self._host, self._meta, self._owner = host, meta, owner
        self._staged = b""
        self.damaged = False

    def write(self, offset: int, piece: bytes) -> None:
        if offset != len(self._staged):
            raise ValueError(f"piece at {offset}, {len(self._staged)} expected")
        self._staged += piece

    def verify(self) -> None:
        if self.damaged:
            self._staged = self._staged[:-1] + bytes((self._staged[-1] ^ 1,))
        if len(self._staged) != self._meta.bytes_total:
            raise DamagedError("the checkpoint is short")
        unpack(self._staged)

    def missing_chunks(self, count_max: int) -> list[bytes]:
        return [h for h in self._owner.missing if h not in self._host.disk.chunks][:count_max]

    def add_chunk(self, chunk_hash: bytes, content: bytes) -> None:
        if blake3(content).digest() != chunk_hash:
            raise ValueError("chunk bytes do not match their hash")
        self._host.disk.chunks[chunk_hash] = content

    def install(self) -> None:
        if self._owner.fail_install:
            raise OSError("rename failed")
        self._host.load(self._meta, unpack(self._staged))
        self._host.disk.latest, self._host.disk.content = self._meta, self._staged

    def abort(self) -> None:
        self._staged = b""
