"""The flush cycle of the state store: when it flushes, what it waits for, and what a reopen finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypercluster import limits
from hypercluster.errors import (
    DamagedError,
    DiskFailedError,
    DiskFullError,
    InvariantError,
    TurnedAwayError,
    WrongDirectoryError,
)
from hypercluster.state_machine.store import Change, Family
from hypercluster.storage.rocks import FORMAT_KEY, Applied, FlushState, RocksStore
from hypercluster.storage.rocks_errors import opening_error
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.values import Digest, Index, NodeId, Term

SMALL = RocksSettings(flush_bytes=64 << 10, flush_entries=50, block_cache_bytes=1 << 20)
DEADLINE_S = 10.0


class Barrier:
    """A chunk store of which the test decides when it is synced."""

    def __init__(self) -> None:
        self.dirty = False
        self.waiting: list[Callable[[BaseException | None], None]] = []
        self.blocking_syncs = 0

    def synced(self) -> bool:
        return not self.dirty

    def start_sync(self, done: Callable[[BaseException | None], None]) -> None:
        self.waiting.append(done)

    def sync(self) -> None:
        self.dirty = False
        self.blocking_syncs += 1

    def finish(self, *, dirty_again: bool = False, error: BaseException | None = None) -> None:
        self.dirty = dirty_again
        self.waiting.pop(0)(error)


@pytest.fixture
def barrier() -> Barrier:
    return Barrier()


@pytest.fixture
def store(tmp_path: Path, barrier: Barrier) -> Iterator[RocksStore]:
    made = RocksStore(str(tmp_path / "state"), SMALL, barrier)
    yield made
    barrier.dirty = False
    made.close()


def commit(store: RocksStore, index: int, value_bytes: int = 10) -> None:
    changes = [Change(family, b"at", b"%d" % index) for family in Family]
    changes.append(Change(Family.HUB, b"%08d" % index, b"v" * value_bytes))
    store.commit(Index(index), Term(3), Digest(bytes(32)), changes, index)


def wait_flushed(store: RocksStore, index: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while store.flushed_index < index:
        assert time.monotonic() < deadline, f"flushed {store.flushed_index}, not {index}"


@pytest.mark.req("CL-7")
def test_entries_and_bytes_start_a_flush(store: RocksStore) -> None:
    for index in range(1, SMALL.flush_entries):
        commit(store, index)
    assert store.flush_state is FlushState.IDLE
    assert store.flushed_index == 0
    commit(store, SMALL.flush_entries)
    wait_flushed(store, SMALL.flush_entries)
    index = SMALL.flush_entries + 1
    commit(store, index, SMALL.flush_bytes)
    wait_flushed(store, index)


@pytest.mark.req("CL-7")
def test_commits_go_on_while_a_flush_runs(store: RocksStore) -> None:
    commit(store, 1)
    store.request_flush()
    assert store.flush_state is FlushState.FLUSHING
    for index in range(2, 20):
        commit(store, index)
    assert not store.stalled()
    wait_flushed(store, 1)
    assert store.flushed_index == 1, "what came after the freeze is not in the flush"


@pytest.mark.req("CL-7")
def test_a_reopen_finds_the_applied_record_and_its_state(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "state"), SMALL)
    commit(store, 1)
    commit(store, 7)
    store.close()
    store = RocksStore(str(tmp_path / "state"), SMALL)
    assert store.applied == Applied(Index(7), Term(3), Digest(bytes(32)), 7)
    assert store.flushed_index == 7
    assert {store.get(family, b"at") for family in Family} == {b"7"}
    assert list((tmp_path / "state").glob("*.log")) == [] or all(
        file.stat().st_size == 0 for file in (tmp_path / "state").glob("*.log")
    ), "RocksDB's own log is off"
    store.close()


@pytest.mark.req("CL-8")
def test_a_flush_waits_until_chunks_are_durable(store: RocksStore, barrier: Barrier) -> None:
    barrier.dirty = True
    commit(store, 1)
    store.request_flush()
    commit(store, 2)
    assert store.flush_state is FlushState.SYNCING
    assert store.flushed_index == 0
    barrier.finish()
    wait_flushed(store, 2)


@pytest.mark.req("CL-8")
def test_chunks_that_keep_coming_ask_for_a_pause_and_never_slip_through(store: RocksStore, barrier: Barrier) -> None:
    barrier.dirty = True
    commit(store, 1)
    store.request_flush()
    stalls = []
    for index in range(2, 8):
        stalls.append(store.stalled())
        commit(store, index)
        barrier.finish(dirty_again=True)
        assert store.flush_state is FlushState.SYNCING
    assert stalls[0] is False
    assert stalls[-1] is True
    barrier.finish()
    assert not store.stalled()
    wait_flushed(store, 7)


@pytest.mark.req("CL-8")
def test_freezing_exactly_asks_for_a_pause_at_once_and_holds_further_flushes(
    store: RocksStore, barrier: Barrier
) -> None:
    barrier.dirty = True
    commit(store, 1)
    frozen: list[Applied] = []
    store.freeze_exactly(frozen.append)
    assert store.stalled()
    assert frozen == []
    barrier.finish()
    assert [applied.index for applied in frozen] == [1]
    assert not store.stalled()
    for index in range(2, 2 + SMALL.flush_entries):
        commit(store, index)
    wait_flushed(store, 1)
    assert store.flush_state is FlushState.IDLE
    with pytest.raises(InvariantError):
        store.freeze_exactly(frozen.append)
    store.release()
    wait_flushed(store, 1 + SMALL.flush_entries)


@pytest.mark.req("CL-7", "CL-8")
def test_a_caller_that_ignores_the_stall_waits_but_loses_no_order(store: RocksStore, barrier: Barrier) -> None:
    barrier.dirty = True
    store.freeze_exactly(lambda _applied: None)
    for index in range(1, 12):
        barrier.dirty = True
        commit(store, index, SMALL.flush_bytes)
    assert barrier.blocking_syncs > 0
    assert store.stalled()
    store.release()


@pytest.mark.req("CL-4")
def test_a_failed_chunk_sync_is_final(tmp_path: Path, barrier: Barrier) -> None:
    store = RocksStore(str(tmp_path / "state"), SMALL, barrier)
    barrier.dirty = True
    commit(store, 1)
    store.request_flush()
    barrier.finish(dirty_again=True, error=DiskFailedError("the disk went away"))
    with pytest.raises(DiskFailedError):
        commit(store, 2)
    with pytest.raises(DiskFailedError):
        store.stalled()
    store.close()


def test_an_index_never_falls(store: RocksStore) -> None:
    commit(store, 5)
    with pytest.raises(InvariantError):
        commit(store, 5)


def test_a_scan_ends_with_its_database(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "state"), SMALL)
    commit(store, 1)
    scan = store.scan(Family.HUB, b"", b"\xff")
    store.close()
    with pytest.raises(TurnedAwayError):
        next(scan)
    again = RocksStore(str(tmp_path / "state"), SMALL)
    assert again.applied.index == 1
    again.close()


@pytest.mark.req("CL-15")
def test_a_directory_in_use_is_not_called_damaged(store: RocksStore) -> None:
    with pytest.raises(WrongDirectoryError, match="another process"):
        RocksStore(store.path, SMALL)


@pytest.mark.req("CL-15")
def test_a_newer_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "state"), SMALL)
    store.database.write((), (FORMAT_KEY, b"\x63"))
    store.close()
    with pytest.raises(WrongDirectoryError, match=r"format 99.*start the newer"):
        RocksStore(str(tmp_path / "state"), SMALL)


@pytest.mark.req("CL-15")
def test_damage_names_the_directory_and_the_way_out(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "state"), SMALL)
    commit(store, 1)
    store.close()
    (tmp_path / "state" / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(DamagedError, match=r"state.*hypercluster node rejoin"):
        RocksStore(str(tmp_path / "state"), SMALL)


@pytest.mark.req("CL-4")
def test_a_full_disk_at_opening_is_not_called_damaged() -> None:
    """Words for damage tell the operator to remove the directory."""
    words = "IO error: No space left on device: While appending to file: /d/MANIFEST-000009: No space left on device"
    found = opening_error("/d", Exception(words), "Remove that directory")
    assert isinstance(found, DiskFullError)
    assert "Make room" in str(found) and "Remove" not in str(found)


def test_a_damaged_block_is_reported_and_never_taken_for_the_end(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "state"), SMALL)
    noise = [bytes([n]) + b"%d" % (n * 7_919**5) * 4 for n in range(200)]
    store.write([Change(Family.HUB, b"%08d" % n, value) for n, value in enumerate(noise)])
    store.close()
    tables = sorted((tmp_path / "state").glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(tables[-1].read_bytes())
    content[40] ^= 1
    tables[-1].write_bytes(content)
    store = RocksStore(str(tmp_path / "state"), SMALL)
    for reverse in (False, True):
        with pytest.raises(DamagedError, match="checksum"):
            list(store.scan(Family.HUB, b"", b"\xff", reverse=reverse))
    with pytest.raises(DamagedError, match="checksum"):
        store.get(Family.HUB, b"00000000")
    store.database.close()


def test_nodes_flush_at_different_sizes() -> None:
    sizes = {RocksSettings.staggered(NodeId(f"n{number}")).flush_bytes for number in range(1, 8)}
    assert len(sizes) > 3
    assert all(limits.FLUSH_BYTES // 2 < size <= limits.FLUSH_BYTES for size in sizes)


def test_a_closed_state_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """An RPC that outlives a stop would answer that what it looks for is not there."""
    store = RocksStore(str(tmp_path / "closed"), SMALL)
    store.write([Change(Family.HUB, b"key", b"value")])
    store.close()
    for read in (
        lambda: store.get(Family.HUB, b"key"),
        lambda: store.scan(Family.HUB, b"a", b"z"),
        lambda: store.hold(Family.HUB, b"a", b"z"),
    ):
        with pytest.raises(TurnedAwayError, match="closed"):
            read()


@pytest.mark.req("D-18")
def test_bytes_of_versions_are_counted_as_they_are_written(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "counted"), SMALL)
    assert store.versions_bytes() == (0, 0)
    store.write([Change(Family.VERSIONS, b"Vkey", b"12345678"), Change(Family.HUB, b"key", b"value")])
    store.write([Change(Family.VERSIONS, b"Vkey", None), Change(Family.VERSIONS, b"S", b"12")])
    assert store.versions_bytes() == (0, 12 + 3)
    store.close()
    again = RocksStore(str(tmp_path / "counted"), SMALL)
    stored, written = again.versions_bytes()
    assert stored > 0 and written == 0
    again.close()
