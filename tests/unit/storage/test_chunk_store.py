"""Chunk bytes: written once, never returned damaged, never torn by a crash."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.errors import DiskFailedError, DiskFullError, InvariantError, WrongDirectoryError
from hypercluster.limits import CHUNK_BYTES_MAX
from hypercluster.state_machine.store import Change, Family
from hypercluster.storage import chunk_segment, rocks
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import Disk, File, PosixDisk
from hypercluster.storage.rocks import RocksStore
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import InlineRunner
from hypercluster.values import ChunkHash, Digest, Index, Term
from tests.fakes.power_cut_disk import PowerCutDisk

SEGMENT_BYTES = 64 << 10


def open_store(path: Path, disk: Disk | None = None, reports: list[str] | None = None) -> ChunkStore:
    return ChunkStore(
        str(path),
        disk or PosixDisk(),
        InlineRunner(),
        on_damaged=lambda chunk_hash, why: None if reports is None else reports.append(f"{chunk_hash.hex()} {why}"),
        segment_bytes=SEGMENT_BYTES,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chunks"


@pytest.fixture
def store(path: Path) -> Iterator[ChunkStore]:
    made = open_store(path)
    yield made
    made.close()


def hash_of(content: bytes) -> ChunkHash:
    return ChunkHash(blake3(content).digest())


def chunks(count: int, seed: int = 1, size: int = 2_000) -> dict[ChunkHash, bytes]:
    rng = random.Random(seed)
    made = [rng.randbytes(rng.randrange(1, size)) for _ in range(count)]
    return {hash_of(content): content for content in made}


def put_all(store: ChunkStore, wanted: dict[ChunkHash, bytes]) -> None:
    for chunk_hash, content in wanted.items():
        assert store.put(chunk_hash, content)


def check_all(store: ChunkStore, wanted: dict[ChunkHash, bytes]) -> None:
    for chunk_hash, content in wanted.items():
        assert store.get(chunk_hash) == content
    assert set(store.hashes()) == set(wanted)
    assert store.count == len(wanted)
    assert store.content_bytes == sum(map(len, wanted.values()))


@pytest.mark.req("CL-8")
def test_put_get_and_put_again(store: ChunkStore) -> None:
    wanted = chunks(200)
    put_all(store, wanted)
    check_all(store, wanted)
    for chunk_hash, content in wanted.items():
        assert not store.put(chunk_hash, content)
    store.sync()
    assert store.synced()
    check_all(store, wanted)
    assert not any(store.put(chunk_hash, content) for chunk_hash, content in wanted.items())
    other = hash_of(b"never put")
    assert store.missing([*wanted, other]) == [other]
    assert store.get(other) is None


@pytest.mark.req("CL-8")
def test_what_is_not_the_hash_is_refused(store: ChunkStore) -> None:
    with pytest.raises(ValueError, match="content"):
        store.put(hash_of(b"a"), b"b")
    too_long = bytes(CHUNK_BYTES_MAX + 1)
    with pytest.raises(ValueError, match="longer"):
        store.put(hash_of(too_long), too_long)
    longest = bytes(CHUNK_BYTES_MAX)
    assert store.put(hash_of(longest), longest)
    assert store.put(hash_of(b""), b"")
    assert store.get(hash_of(longest)) == longest
    assert store.get(hash_of(b"")) == b""


@pytest.mark.req("CL-8")
def test_a_reopen_finds_everything(path: Path) -> None:
    wanted = chunks(300)
    store = open_store(path)
    put_all(store, wanted)
    store.close()
    assert len(list(path.glob("*.chunks"))) > 3, "segments roll"
    store = open_store(path)
    check_all(store, wanted)
    assert store.torn_bytes == 0
    more = chunks(50, seed=2)
    put_all(store, more)
    check_all(store, wanted | more)
    store.close()


@pytest.mark.req("CL-8")
def test_an_index_that_is_gone_is_rebuilt(path: Path) -> None:
    wanted = chunks(300)
    store = open_store(path)
    put_all(store, wanted)
    store.close()
    shutil.rmtree(path / "index")
    store = open_store(path)
    check_all(store, wanted)
    store.close()


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("seed", range(12))
def test_after_a_power_cut_synced_chunks_are_here_and_no_other_is_damaged(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng, disk = random.Random(seed), PowerCutDisk()
    data = tmp_path / "data"
    store = open_store(data / "chunks", disk)
    synced: dict[ChunkHash, bytes] = {}
    every: dict[ChunkHash, bytes] = {}
    for chunk_hash, content in chunks(rng.randrange(1, 200), seed).items():
        store.put(chunk_hash, content)
        every[chunk_hash] = content
        if rng.random() < 0.1:
            store.sync()
            synced = dict(every)
    disk.cut(data, tmp_path / "after")
    for path, size_bytes in disk.synced.items():  # a torn tail: some bytes more than were synced
        torn = tmp_path / "after" / os.path.relpath(path, data)
        whole = Path(path).read_bytes()
        kept = rng.randrange(min(size_bytes, len(whole)), len(whole) + 1)
        holes = rng.random() < 0.5  # the size reached the disk, the last pages did not
        torn.write_bytes(whole[:kept] + bytes(len(whole) - kept if holes else 0))
    reports: list[str] = []
    after = open_store(tmp_path / "after" / "chunks", reports=reports)
    for chunk_hash, content in every.items():
        found = after.get(chunk_hash)
        assert found == content or (found is None and chunk_hash not in synced)
    assert reports == []
    put_all(after, {h: c for h, c in every.items() if not after.has(h)})
    check_all(after, every)
    after.close()
    store.close()


@pytest.mark.req("CL-8")
def test_damage_is_reported_never_returned_and_mended_by_the_next_put(path: Path) -> None:
    wanted = chunks(40)
    store = open_store(path)
    put_all(store, wanted)
    store.close()
    segment = min(path.glob("*.chunks"))
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    segment.write_bytes(raw)
    reports: list[str] = []
    store = open_store(path, reports=reports)
    found = {chunk_hash: store.get(chunk_hash) for chunk_hash in wanted}
    damaged = [chunk_hash for chunk_hash, content in found.items() if content is None]
    assert len(damaged) == 1
    assert reports == [f"{damaged[0].hex()} the record at {reports[0].split()[4]} of {segment.name} does not verify"]
    assert all(content in (None, wanted[chunk_hash]) for chunk_hash, content in found.items())
    assert store.missing(wanted) == damaged
    assert store.put(damaged[0], wanted[damaged[0]])
    check_all(store, wanted)
    store.close()
    store = open_store(path)
    check_all(store, wanted)
    store.close()


@pytest.mark.req("CL-8")
def test_deleted_chunks_give_their_space_back(path: Path) -> None:
    wanted = chunks(300)
    store = open_store(path)
    put_all(store, wanted)
    store.sync()
    before = store.stored_bytes
    gone = [chunk_hash for number, chunk_hash in enumerate(wanted) if number % 3]
    for chunk_hash in gone:
        assert store.delete(chunk_hash)
        assert not store.delete(chunk_hash)
        assert store.get(chunk_hash) is None
        del wanted[chunk_hash]
    check_all(store, wanted)
    freed = 0
    while step := store.reclaim(1 << 30):
        freed += step
    assert freed > before // 3
    assert store.stored_bytes < before * 2 // 3
    check_all(store, wanted)
    store.close()
    store = open_store(path)
    check_all(store, wanted)
    returned = {chunk_hash: content for chunk_hash, content in chunks(300).items() if chunk_hash in gone}
    put_all(store, returned)
    check_all(store, wanted | returned)
    store.close()


@pytest.mark.req("CL-8")
def test_a_segment_with_damage_is_not_reclaimed_over_its_living_chunks(path: Path) -> None:
    wanted = chunks(200)
    store = open_store(path)
    put_all(store, wanted)
    store.close()
    first = min(path.glob("*.chunks"))
    raw = bytearray(first.read_bytes())
    raw[chunk_segment.SEGMENT_HEADER_BYTES + 60] ^= 1
    first.write_bytes(raw)
    store = open_store(path)
    for chunk_hash in list(wanted)[:50]:  # more than half of the first segment, the damaged record included
        store.delete(chunk_hash)
        del wanted[chunk_hash]
    assert store.reclaim(1 << 30) == 0
    assert store.reclaim(1 << 30) == 0
    assert first.exists()
    check_all(store, wanted)
    store.close()


class FailingFile:
    def __init__(self, file: File, disk: FailingDisk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def pwrite(self, data: bytes, offset: int) -> None:
        if self._disk.write_error:
            self._file.pwrite(data[: len(data) // 2], offset)
            raise OSError(self._disk.write_error, os.strerror(self._disk.write_error))
        self._file.pwrite(data, offset)

    def fdatasync(self) -> None:
        if self._disk.sync_error:
            raise OSError(self._disk.sync_error, os.strerror(self._disk.sync_error))
        self._file.fdatasync()


class FailingDisk(PosixDisk):
    write_error = 0
    sync_error = 0

    def open(self, path: str, *, create: bool = False) -> FailingFile:  # type: ignore[override]
        return FailingFile(super().open(path, create=create), self)


@pytest.mark.req("CL-4")
def test_a_full_disk_refuses_a_chunk_and_takes_it_when_there_is_room(path: Path) -> None:
    disk, wanted = FailingDisk(), chunks(100)
    store = open_store(path, disk)
    for number, (chunk_hash, content) in enumerate(wanted.items()):
        if number % 10 == 0:
            disk.write_error = errno.ENOSPC
            with pytest.raises(DiskFullError):
                store.put(chunk_hash, content)
            assert not store.has(chunk_hash)
            disk.write_error = 0
        store.put(chunk_hash, content)
    check_all(store, wanted)
    store.close()
    store = open_store(path)
    check_all(store, wanted)
    store.close()


@pytest.mark.req("CL-4")
def test_a_failed_sync_is_final(path: Path) -> None:
    disk = FailingDisk()
    store = open_store(path, disk)
    store.put(hash_of(b"a"), b"a")
    disk.sync_error = errno.EIO
    with pytest.raises(DiskFailedError):
        store.sync()
    disk.sync_error = 0
    with pytest.raises(DiskFailedError):
        store.sync()
    with pytest.raises(DiskFailedError):
        store.put(hash_of(b"b"), b"b")
    assert not store.synced()
    store.close()


@pytest.mark.req("CL-15")
def test_a_newer_segment_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_segment, "SEGMENT_VERSION", 9)
    store = open_store(path)
    store.put(hash_of(b"a"), b"a")
    store.close()
    monkeypatch.undo()
    with pytest.raises(WrongDirectoryError, match="chunk format 9"):
        open_store(path)


# --- chunks and state under one power cut (CL-8) ---------------------------------------------------------


def cut_after_commits(tmp_path: Path, seed: int) -> int:
    """Commits with chunks, flushes at random, cuts the power, opens the copy; answers how many named chunks lack."""
    rng, disk = random.Random(seed), PowerCutDisk()
    chunk_store = open_store(tmp_path / "data" / "chunks", disk)
    store = RocksStore(
        str(tmp_path / "data" / "state"), RocksSettings(flush_bytes=8 << 10, block_cache_bytes=1 << 20), chunk_store
    )
    for index, (chunk_hash, content) in enumerate(chunks(150, seed).items(), 1):
        chunk_store.put(chunk_hash, content)
        store.commit(Index(index), Term(1), Digest(bytes(32)), [Change(Family.CHUNKS, chunk_hash, b"here" * 20)])
        if rng.random() < 0.01:
            break
    store.database.wait_frozen()
    disk.cut(tmp_path / "data", tmp_path / "after")
    after_chunks = open_store(tmp_path / "after" / "chunks")
    after = RocksStore(str(tmp_path / "after" / "state"), RocksSettings(), after_chunks)
    named = [ChunkHash(key) for key, _ in after.scan(Family.CHUNKS, b"", b"\xff" * 40)]
    lacking = len(after_chunks.missing(named))
    for opened in (after, after_chunks):
        opened.close()
    store.database.close()
    chunk_store.close()
    return lacking


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("seed", range(5))
def test_no_flushed_record_names_a_chunk_that_a_power_cut_took(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    assert cut_after_commits(tmp_path, seed) == 0


@pytest.mark.req("CL-8")
def test_flushing_without_waiting_for_chunks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The known-bad build: the state does not ask the chunk store."""
    monkeypatch.setattr(ChunkStore, "synced", lambda _: True)
    lacking = 0
    for seed in range(5):
        lacking += cut_after_commits(tmp_path / str(seed), seed)
    assert lacking > 0


@pytest.mark.req("CL-8")
def test_a_freeze_over_unsynced_chunks_stops_the_node(tmp_path: Path) -> None:
    chunk_store = open_store(tmp_path / "chunks")
    store = RocksStore(str(tmp_path / "state"), RocksSettings(), chunk_store)
    chunk_store.put(hash_of(b"a"), b"a")
    with pytest.raises(InvariantError, match="durable before"):
        store._freeze()
    store.close()
    chunk_store.close()
    assert rocks.APPLIED_VERSION == 1
