"""Chunks on this host: bounded, verified, and there for every thread."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from blake3 import blake3

from hypercluster.client.live import chunk_cache
from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.errors import DamagedError, MalformedError

LEAST = chunk_cache.BYTES_MAX_LEAST


def chunk(number: int, size: int = 64 * 1024) -> tuple[bytes, bytes]:
    content = random.Random(number).randbytes(size)
    return blake3(content).digest(), content


@pytest.fixture(autouse=True)
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look goes to the disk."""
    monkeypatch.setattr(chunk_cache, "MEMORY_BYTES", 0)


def test_what_was_put_is_there_before_and_after_the_disk(tmp_path: Path) -> None:
    cache = ChunkCache(str(tmp_path), LEAST)
    chunk_hash, content = chunk(1)
    assert cache.get(chunk_hash) is None
    cache.put({chunk_hash: content})
    assert (cache.get(chunk_hash), cache.has(chunk_hash)) == (content, True)
    cache.flush()
    assert (cache.get(chunk_hash), cache.has(chunk_hash)) == (content, True)
    assert cache.lacking([chunk_hash, b"?" * 32, b"?" * 32]) == [b"?" * 32]
    cache.close()
    again = ChunkCache(str(tmp_path), LEAST)
    assert again.get(chunk_hash) == content
    assert again.bytes_total == len(content)
    again.close()


def test_the_oldest_go_unless_they_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ChunkCache(str(tmp_path), LEAST)
    monkeypatch.setattr(cache, "_bytes_max", 40 * 64 * 1024)
    chunks = [chunk(number) for number in range(100)]
    for number, (chunk_hash, content) in enumerate(chunks):
        cache.put({chunk_hash: content})
        cache.flush()
        if number == 30:
            assert cache.get(chunks[5][0]) is not None
    left = [number for number, (chunk_hash, _) in enumerate(chunks) if cache.has(chunk_hash)]
    assert left == list(range(60, 100))  # its second turn is over, too
    assert cache.bytes_total == 40 * 64 * 1024
    cache.put(dict(chunks[:1]))
    cache.flush()
    assert cache.get(chunks[61][0]) is not None
    cache.put(dict(chunks[1:3]))
    cache.flush()
    assert cache.has(chunks[61][0])
    assert not cache.has(chunks[62][0])
    cache.close()


def test_damaged_bytes_are_as_good_as_absent(tmp_path: Path) -> None:
    cache = ChunkCache(str(tmp_path), LEAST)
    chunk_hash, content = chunk(1, 5_000)
    cache.put({chunk_hash: content})
    cache.flush()
    cache.close()
    data = tmp_path / "data.mdb"
    raw = bytearray(data.read_bytes())
    raw[raw.index(content) + 100] ^= 1
    data.write_bytes(raw)
    cache = ChunkCache(str(tmp_path), LEAST)
    assert cache.has(chunk_hash)
    assert cache.get(chunk_hash) is None
    assert not cache.has(chunk_hash)
    assert cache.bytes_total == 0
    cache.put({chunk_hash: content})
    cache.flush()
    assert cache.get(chunk_hash) == content
    cache.close()


def test_a_flush_that_fails_drops_what_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ChunkCache(str(tmp_path), LEAST)

    def full(transaction: lmdb.Transaction, limit_bytes: int) -> None:
        raise lmdb.MapFullError("no room")

    cache.put(dict([chunk(1)]))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_shrink", full)
        with pytest.raises(OSError, match="no room"):
            cache.flush()
    assert (cache.has(chunk(1)[0]), cache.bytes_total) == (False, 0)
    cache.put(dict([chunk(1)]))
    cache.flush()
    assert cache.has(chunk(1)[0])
    cache.close()


def test_a_file_system_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ChunkCache(str(tmp_path), LEAST)
    chunks = [chunk(number) for number in range(50)]
    cache.put(dict(chunks[:20]))
    cache.flush()
    disk = os.statvfs(tmp_path)
    room = 10 * 64 * 1024
    monkeypatch.setattr(chunk_cache, "DISK_RESERVE_BYTES", disk.f_bavail * disk.f_frsize - room)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    assert cache.room_bytes == room
    cache.put(dict(chunks[20:]))
    cache.flush()
    assert cache.bytes_total == 30 * 64 * 1024
    assert [number for number, (chunk_hash, _) in enumerate(chunks) if cache.has(chunk_hash)] == list(range(20, 50))
    monkeypatch.setattr(chunk_cache, "DISK_RESERVE_BYTES", 1 << 60)
    assert cache.room_bytes < 0
    cache.put(dict(chunks[:1]))
    cache.flush()
    assert cache.bytes_total == 0
    cache.close()


def test_readers_miss_nothing_while_it_goes_to_disk(tmp_path: Path) -> None:
    cache = ChunkCache(str(tmp_path), LEAST)
    chunks = [chunk(number, 500) for number in range(400)]

    def look(found: tuple[bytes, bytes]) -> bool:
        return all(cache.get(found[0]) == found[1] and cache.has(found[0]) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        looks = []
        for number, found in enumerate(chunks):
            cache.put(dict([found]))
            looks.append(pool.submit(look, found))
            if number % 10 == 0:
                looks.append(pool.submit(lambda: cache.flush() or True))
        assert all(done.result() for done in looks)
    cache.close()


def test_bounds_and_damage_are_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="cache_bytes"):
        ChunkCache(str(tmp_path / "a"), LEAST - 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data.mdb").write_bytes(b"x" * 8192)
    with pytest.raises(DamagedError, match="Remove it"):
        ChunkCache(str(tmp_path / "b"), LEAST)
