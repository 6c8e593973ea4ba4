"""Node storage in memory, with the same promises and the same losses: for the simulation.

Owns: `MemoryNodeStorage` (state, chunks, checkpoints of one simulated node) with the public names of the real
NodeStorage, RocksStore, ChunkStore and StateCheckpoints.
Never: keeps what was not made durable through a `crash`; does blocking work outside the runner it is given.
Invariants: `crash` goes back to the last flush, the synced chunks, the finished checkpoints; work under way when it
happens never reports.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from blake3 import blake3

from hypercluster import limits
from hypercluster.errors import DamagedError, check
from hypercluster.state_machine.store import Change, Family, MemoryStore
from hypercluster.storage import checkpoint_manifest
from hypercluster.storage.checkpoint_manifest import HEADER, CheckpointFile, Manifest
from hypercluster.storage.checkpoint_receiver import ReferencedHashes
from hypercluster.storage.checkpoints import KEPT
from hypercluster.storage.rocks import NOTHING_APPLIED, Applied
from hypercluster.storage.runner import Done, Runner
from hypercluster.values import CheckpointMeta, ChunkHash, Digest, HistoryId, Index, Membership, Term

FILE_NAME = "000001.sst"
_PAIR = struct.Struct(">BII")
_FAMILIES = {int(family): family for family in Family}


class MemoryChunks:
    """`ChunkStore` with synced and unsynced halves."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._durable: dict[ChunkHash, bytes] = {}
        self._fresh: dict[ChunkHash, bytes] = {}

    def put(self, chunk_hash: ChunkHash, content: bytes) -> bool:
        if len(content) > limits.CHUNK_BYTES_MAX or blake3(content).digest() != chunk_hash:
            raise ValueError("content: too long, or not the bytes of the hash")
        if self.has(chunk_hash):
            return False
        self._fresh[chunk_hash] = content
        return True

    def get(self, chunk_hash: ChunkHash) -> bytes | None:
        return self._fresh.get(chunk_hash) or self._durable.get(chunk_hash)

    def read_chunk(self, chunk_hash: bytes) -> bytes | None:
        return self.get(ChunkHash(chunk_hash))

    def has(self, chunk_hash: ChunkHash) -> bool:
        return chunk_hash in self._fresh or chunk_hash in self._durable

    def missing(self, hashes: Iterable[ChunkHash]) -> list[ChunkHash]:
        return [chunk_hash for chunk_hash in hashes if not self.has(chunk_hash)]

    def delete(self, chunk_hash: ChunkHash) -> bool:
        fresh, durable = self._fresh.pop(chunk_hash, None), self._durable.pop(chunk_hash, None)
        return fresh is not None or durable is not None

    def hashes(self) -> Iterator[ChunkHash]:
        return iter([*self._durable, *self._fresh])

    def synced(self) -> bool:
        return not self._fresh

    def start_sync(self, done: Done) -> None:
        self._runner.submit(self.sync, done)

    def sync(self) -> None:
        self._durable.update(self._fresh)
        self._fresh.clear()

    def crash(self) -> None:
        self._fresh.clear()


class MemoryState:
    """`RocksStore`: live pairs, and the pairs of the last flush."""

    def __init__(self, chunks: MemoryChunks, runner: Runner, flush_entries: int) -> None:
        self._chunks = chunks
        self._runner = runner
        self._flush_entries = flush_entries
        self._flushed = MemoryStore()
        self._flushed_applied = NOTHING_APPLIED
        self._life = 0
        self._flushing = False
        self._load()

    def _load(self) -> None:
        self._live = self._flushed.copy()
        self._pending: list[Change] = []
        self._applied = self._flushed_applied
        self._flushing = False

    @property
    def applied(self) -> Applied:
        return self._applied

    @property
    def flushed_index(self) -> Index:
        return self._flushed_applied.index

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._live.get(family, key)

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._live.scan(family, start, end, reverse=reverse)

    def items(self) -> list[Change]:
        return list(self._live.items())

    def same_pairs(self, other: MemoryState) -> bool:
        return self._live.same_pairs(other._live)

    def write(self, changes: Iterable[Change]) -> None:
        made = list(changes)
        self._live.write(made)
        self._pending.extend(made)

    def commit(
        self, index: Index, term: Term, digest: Digest, changes: Iterable[Change], last_stamp_ns: int = 0
    ) -> None:
        check(index > self._applied.index, f"commit of {index} after {self._applied.index}")
        self.write(changes)
        self._applied = Applied(index, term, digest, max(last_stamp_ns, self._applied.last_stamp_ns))
        if index - self._flushed_applied.index >= self._flush_entries:
            self.request_flush()

    def stalled(self) -> bool:
        return False

    def poll(self) -> None:
        return

    def request_flush(self) -> None:
        """What is flushed is the state at the call; its chunks are synced before."""
        if self._flushing:
            return
        self._flushing = True
        life, applied, count = self._life, self._applied, len(self._pending)

        def done(error: BaseException | None) -> None:
            if error is not None:
                raise error
            if life == self._life:
                self._take(applied, count)
                self._flushing = False

        self._runner.submit(self._chunks.sync, done)

    def _take(self, applied: Applied, count: int) -> None:
        if applied.index < self._flushed_applied.index:
            return
        self._flushed.write(self._pending[:count])
        del self._pending[:count]
        self._flushed_applied = applied

    def flush(self) -> None:
        self._chunks.sync()
        self._life += 1
        self._flushing = False
        self._take(self._applied, len(self._pending))

    def replace_by(self, changes: Iterable[Change], applied: Applied) -> None:
        self._life += 1
        self._flushed = MemoryStore()
        self._flushed.write(changes)
        self._flushed_applied = applied
        self._load()

    def crash(self) -> None:
        self._life += 1
        self._load()

    def close(self) -> None:
        self.flush()


class MemoryCheckpoints:
    """`StateCheckpoints`: the same stream format, with one file of pairs."""

    def __init__(
        self,
        store: MemoryState,
        chunks: MemoryChunks,
        history_id: HistoryId,
        runner: Runner,
        referenced_hashes: ReferencedHashes,
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._history_id = history_id
        self._runner = runner
        self._referenced_hashes = referenced_hashes
        self._kept: list[tuple[Manifest, bytes]] = []
        self._making: Callable[[CheckpointMeta | None], None] | None = None
        self._life = 0

    def latest(self) -> CheckpointMeta | None:
        return self._kept[-1][0].meta if self._kept else None

    def kept(self) -> list[Manifest]:
        return [manifest for manifest, _ in self._kept]

    def create(
        self, index: Index, term: Term, membership: Membership, done: Callable[[CheckpointMeta | None], None]
    ) -> None:
        applied = self._store.applied
        check(applied.index == index, f"a checkpoint at {index} while {applied.index} is applied")
        latest = self.latest()
        if self._making is not None or (latest is not None and latest.index >= index):
            done(latest if latest is not None and latest.index == index and self._making is None else None)
            return
        check(applied.term == term or index == 0, f"a checkpoint of term {term} while {applied.term} is applied")
        self._making = done
        body, life = encode_pairs(self._store.items()), self._life
        stream = self._stream(applied, membership, body)

        def made(error: BaseException | None) -> None:
            if error is not None:
                raise error
            if life == self._life:
                self._making = None
                done(self.keep(stream).meta)

        self._runner.submit(self._store.flush, made)

    def _stream(self, applied: Applied, membership: Membership, body: bytes) -> bytes:
        files = (CheckpointFile(FILE_NAME, len(body), blake3(body).hexdigest()),)
        encoded = checkpoint_manifest.encode(
            applied.index, applied.term, applied.digest, membership, applied.last_stamp_ns, self._history_id, files
        )
        return encoded + body

    def keep(self, stream: bytes) -> Manifest:
        manifest = checkpoint_manifest.decode(stream[: manifest_bytes(stream)], "a checkpoint")
        others = [(m, s) for m, s in self._kept if m.meta.checkpoint_id != manifest.meta.checkpoint_id]
        self._kept = sorted([*others, (manifest, stream)], key=lambda kept: kept[0].meta.index)[-KEPT:]
        return manifest

    def read_piece(self, checkpoint_id: str, offset: int, bytes_max: int) -> bytes | None:
        for manifest, stream in self._kept:
            if manifest.meta.checkpoint_id == checkpoint_id:
                return stream[offset : offset + bytes_max]
        return None

    def receive(self, meta: CheckpointMeta) -> MemoryReceiver:
        return MemoryReceiver(meta, self._history_id, self, self._store, self._chunks, self._referenced_hashes)

    def replaced(self) -> None:
        self._life += 1
        done, self._making = self._making, None
        if done is not None:
            done(None)

    def crash(self) -> None:
        self._life += 1
        self._making = None


class MemoryReceiver:
    """`StagedCheckpoint`."""

    def __init__(
        self,
        meta: CheckpointMeta,
        history_id: HistoryId,
        checkpoints: MemoryCheckpoints,
        store: MemoryState,
        chunks: MemoryChunks,
        referenced_hashes: ReferencedHashes,
    ) -> None:
        self._meta = meta
        self._history_id = history_id
        self._checkpoints = checkpoints
        self._store = store
        self._chunks = chunks
        self._referenced_hashes = referenced_hashes
        self._stream = bytearray()
        self._staged: list[Change] | None = None
        self._missing: list[ChunkHash] = []
        self._over = False

    def write(self, offset: int, piece: bytes) -> None:
        self._check_open()
        if offset != len(self._stream):
            raise ValueError(f"offset: {offset}, expected {len(self._stream)}")
        if offset + len(piece) > self._meta.bytes_total:
            raise ValueError("piece: ends past the checkpoint")
        self._stream += piece

    def verify(self) -> None:
        self._check_open()
        if len(self._stream) != self._meta.bytes_total:
            raise DamagedError("the incoming checkpoint is not complete")
        stream = bytes(self._stream)
        length = manifest_bytes(stream)
        manifest = checkpoint_manifest.decode(stream[:length], "the incoming checkpoint")
        if manifest.meta != self._meta or manifest.history_id != self._history_id:
            raise DamagedError("the incoming checkpoint is another than was announced")
        if blake3(stream[length:]).hexdigest() != manifest.files[0].blake3_hex:
            raise DamagedError("the incoming checkpoint fails its checksum")
        staged = decode_pairs(stream[length:])
        reader = MemoryStore()
        reader.write(staged)
        self._missing = self._chunks.missing(ChunkHash(found) for found in self._referenced_hashes(reader))
        self._staged = staged

    def missing_chunks(self, count_max: int) -> list[bytes]:
        self._check_open()
        check(self._staged is not None, "verify comes before missing_chunks")
        self._missing = self._chunks.missing(self._missing)
        return list(self._missing[:count_max])

    def add_chunk(self, chunk_hash: bytes, content: bytes) -> None:
        self._check_open()
        self._chunks.put(ChunkHash(chunk_hash), content)

    def install(self) -> None:
        self._check_open()
        check(self._staged is not None, "verify comes before install")
        check(not self.missing_chunks(1), "every referenced chunk is here before install")
        assert self._staged is not None
        self._over = True
        meta = self._meta
        self._chunks.sync()
        self._store.replace_by(self._staged, Applied(meta.index, meta.term, meta.digest, meta.last_stamp_ns))
        self._checkpoints.replaced()
        self._checkpoints.keep(bytes(self._stream))

    def abort(self) -> None:
        self._over = True

    def _check_open(self) -> None:
        if self._over:
            raise ValueError("this checkpoint was installed or given up")


class MemoryNodeStorage:
    """Everything a simulated node keeps. The object lives through crashes: `crash` loses what was not durable."""

    def __init__(
        self,
        history_id: HistoryId,
        runner: Runner,
        referenced_hashes: ReferencedHashes,
        *,
        flush_entries: int = limits.FLUSH_ENTRIES,
    ) -> None:
        self.chunks = MemoryChunks(runner)
        self.store = MemoryState(self.chunks, runner, flush_entries)
        self.checkpoints = MemoryCheckpoints(self.store, self.chunks, history_id, runner, referenced_hashes)

    def crash(self) -> None:
        self.chunks.crash()
        self.store.crash()
        self.checkpoints.crash()

    def close(self) -> None:
        self.store.close()


def manifest_bytes(stream: bytes) -> int:
    return checkpoint_manifest.encoded_bytes(stream[: HEADER.size], "the incoming checkpoint")


def encode_pairs(pairs: Iterable[Change]) -> bytes:
    """None of `pairs` is a deletion. Column by column, because a checkpoint has tens of thousands of them."""
    columns = tuple(zip(*pairs, strict=True))
    if not columns:
        return b""
    families, keys, values = columns
    heads = map(_PAIR.pack, families, map(len, keys), map(len, values))
    return b"".join(chain.from_iterable(zip(heads, keys, values, strict=True)))


def decode_pairs(body: bytes) -> list[Change]:
    pairs: list[Change] = []
    at = 0
    while at < len(body):
        family, key_bytes, value_bytes = _PAIR.unpack_from(body, at)
        at += _PAIR.size
        value_at = at + key_bytes
        pairs.append(Change(_FAMILIES[family], body[at:value_at], body[value_at : value_at + value_bytes]))
        at = value_at + value_bytes
    return pairs
