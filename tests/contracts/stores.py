"""Every `Store` there is, made anew for a test. One list: the contract tests run over each entry of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypercluster.client.sqlite_store import SqliteStore
from hypercluster.state_machine.store import MemoryStore, Store
from hypercluster.storage.rocks import RocksStore

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "rocks": lambda directory: RocksStore(str(directory / "state")),
    "sqlite": lambda directory: SqliteStore(str(directory / "mirror.db")),
}


def close(store: Store) -> None:
    if isinstance(store, RocksStore | SqliteStore):
        store.close()
