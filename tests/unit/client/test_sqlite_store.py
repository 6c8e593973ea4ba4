"""The worker's mirror: transactions over many writes, its own records with them, and what a kill leaves."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercluster.client.sqlite_store import FORMAT_VERSION, SCAN_PAIRS, SqliteStore
from hypercluster.errors import DamagedError, WrongDirectoryError
from hypercluster.state_machine.store import Change, Family


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(str(path), batch_writes=3)
    yield made
    made.close()


def put(store: SqliteStore, key: bytes) -> None:
    store.write([Change(Family.TREE, key, b"value")])


def found_after_a_kill(path: Path, target: Path) -> tuple[list[bytes], bytes | None]:
    """What another process would find, had this one been killed now."""
    target.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.with_name(name), target / name)
    copy = SqliteStore(str(target / path.name))
    found = [key for key, _ in copy.scan(Family.TREE, b"", b"\xff")], copy.record("cursor")
    copy.close()
    return found


def test_a_batch_and_its_records_come_back_together(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    for number in range(1, 6):
        store.put_record("cursor", b"%d" % number)
        put(store, b"%d" % number)
    assert store.record("cursor") == b"5"
    assert found_after_a_kill(path, tmp_path / "open") == ([b"1", b"2", b"3"], b"3")
    store.commit_batch()
    assert found_after_a_kill(path, tmp_path / "committed") == ([b"1", b"2", b"3", b"4", b"5"], b"5")


def test_rolling_back_forgets_the_open_batch(store: SqliteStore) -> None:
    put(store, b"1")
    store.commit_batch()
    put(store, b"2")
    store.put_record("cursor", b"2")
    store.roll_back()
    assert [key for key, _ in store.scan(Family.TREE, b"", b"\xff")] == [b"1"]
    assert store.record("cursor") is None


def test_sync_on_request_syncs_the_log(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    put(store, b"1")
    store.commit_batch()
    assert synced == []
    put(store, b"2")
    store.commit_batch(sync=True)
    assert len(synced) == 1


def test_clear_keeps_the_records(store: SqliteStore) -> None:
    put(store, b"1")
    store.put_record("outbox", b"7")
    store.clear()
    assert list(store.scan(Family.TREE, b"", b"\xff")) == []
    assert store.record("outbox") == b"7"
    store.put_record("outbox", None)
    assert store.record("outbox") is None


def test_long_scans_leave_nothing_behind(store: SqliteStore) -> None:
    store.write([Change(Family.TREE, b"%06d" % number, b"v") for number in range(SCAN_PAIRS * 3)])
    whole = list(store.scan(Family.TREE, b"", b"\xff"))
    assert len(whole) == SCAN_PAIRS * 3
    begun = store.scan(Family.TREE, b"", b"\xff")
    next(begun)
    del begun
    left = store._connection.execute("SELECT count(*) FROM sqlite_temp_master").fetchone()[0]
    assert left == 0


def test_a_newer_format_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(WrongDirectoryError, match="newer version"):
        SqliteStore(str(path))


def test_a_damaged_file_names_the_way_out(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DamagedError, match="Remove it"):
        SqliteStore(str(path))


def test_a_closed_store_closes_again(store: SqliteStore) -> None:
    store.close()
    store.close()
