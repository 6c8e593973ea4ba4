"""Every `Store` there is, made anew for a test. One list: the contract tests run over each entry of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hypercluster.client.live.store import TreeStore
from hypercluster.client.sqlite_store import SqliteStore
from hypercluster.state_machine.store import Change, MemoryStore, Store
from hypercluster.storage.rocks import RocksStore


class FlushedTreeStore(TreeStore):
    """Everything written is on disk before the next read."""

    def write(self, changes: Iterable[Change]) -> None:
        super().write(changes)
        self.flush_now()


class FlushingTreeStore(TreeStore):
    """A flush is always under way: each write ends the one before and begins another."""

    def write(self, changes: Iterable[Change]) -> None:
        super().write(changes)
        if self.is_flushing:
            self.end_flush()
        if self.begin_flush():
            self.flush()


STORES: dict[str, Callable[[Path], Store]] = {
    "live": lambda directory: TreeStore(str(directory / "tree")),
    "live, flushed": lambda directory: FlushedTreeStore(str(directory / "tree")),
    "live, flushing": lambda directory: FlushingTreeStore(str(directory / "tree")),
    "memory": lambda _: MemoryStore(),
    "rocks": lambda directory: RocksStore(str(directory / "state")),
    "sqlite": lambda directory: SqliteStore(str(directory / "mirror.db")),
}


LONGEST_KEY_BYTES = {"live": 510, "live, flushed": 510, "live, flushing": 510}  # those of a workspace are shorter


def close(store: Store) -> None:
    if isinstance(store, RocksStore | SqliteStore | TreeStore):
        store.close()
