"""Writes one workspace snapshot in small steps, from records that are held as they were at its entry (WS-53).

Owns: the order: records to pages, pages to the store, then index pages, then the manifest.
Never: holds up the loop: each step is bounded and runs beside it; decides how fast.
Invariants: the same records make the same pages and the same manifest on every node; nothing is published unless the
header among the records has the index and the root that the entry named.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypercluster.credentials.certificates import KeyPair
from hypercluster.errors import check
from hypercluster.snapshot_manifest import Manifest
from hypercluster.state_machine.outcome import MarkedSnapshot
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.records import decode_header, header_key
from hypercluster.storage.rocks import HeldRecords
from hypercluster.storage.snapshots.pages import IndexCutter, PageCutter
from hypercluster.storage.snapshots.store import SnapshotStore


class SnapshotWriter:
    """`step` until it answers True, beside the loop; `end` in any case."""

    def __init__(
        self,
        store: SnapshotStore,
        marked: MarkedSnapshot,
        history_id: bytes,
        sources: Sequence[tuple[Family, HeldRecords]],
        pair: KeyPair,
    ) -> None:
        self.marked = marked
        self._store = store
        self._history_id = history_id
        self._sources = list(sources)
        self._pair = pair
        self._pages, self._index = PageCutter(), IndexCutter()
        self._index_pages: list[bytes] = []
        self._header_seen = False

    @property
    def bytes_read(self) -> int:
        return self._pages.bytes_total

    def step(self, count_max: int) -> bool:
        """Reads up to `count_max` records. True: the snapshot is published."""
        if self._sources:
            family, source = self._sources[0]
            pairs = source.take(count_max)
            for key, value in pairs:
                self._look(family, key, value)
                for page in self._pages.add(int(family), key, value):
                    self._put(page)
            if not pairs:
                source.end()
                del self._sources[0]
            return False
        for page in self._pages.finish():
            self._put(page)
        self._index_pages += [self._store.put_page(page) for page in self._index.finish()]
        check(self._header_seen, "a snapshot holds the header of its workspace")
        self._store.publish(self._manifest(), self._pair)
        return True

    def _look(self, family: Family, key: bytes, value: bytes) -> None:
        """The state that is held is the one the entry left (WS-53)."""
        workspace_id, log_index, root = self.marked
        if family is Family.TREE and key == header_key(workspace_id):
            header = decode_header(workspace_id, value)
            check(
                (header.log_index, header.root) == (log_index, root), "a snapshot is taken of the tree it was marked at"
            )
            self._header_seen = True

    def _put(self, page: bytes) -> None:
        page_hash = self._store.put_page(page)
        self._index_pages += [self._store.put_page(found) for found in self._index.add(page_hash)]

    def _manifest(self) -> Manifest:
        workspace_id, log_index, root = self.marked
        return Manifest(
            workspace_id,
            self._history_id,
            log_index,
            root,
            tuple(self._index_pages),
            self._index.count,
            self._pages.records,
            self._pages.bytes_total,
        )

    def end(self) -> None:
        for _, source in self._sources:
            source.end()
        self._sources.clear()
