"""The trees of a live worker on disk: one that is whole, and perhaps one that is being built from a snapshot (WS-52).

Owns: the worker's state directory: `lock`, `chunks/` and `tree-NUMBER/`; which tree counts after a crash; the building.
Never: talks to a cluster; touches a tree that is in use.
Invariants: one process at a time has the directory; a tree counts once its record `state` says "ready", which is
written in the last transaction of its building, after its root was computed from inodes and entries alone; the highest
number counts, and every other tree is removed at the next start. A tree is removed after the one that replaces it is
synced, so after a power cut one of them is there.

    tree-7/   LMDB: families of the workspace, places in META, records workspace_id, history_id, state, failure
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable

from hypercluster.client.live.replica import place_prefix
from hypercluster.client.live.store import TreeStore
from hypercluster.client.worker.state import FAILURE_RECORD, Failure
from hypercluster.client.worker.tree_view import TreeView
from hypercluster.errors import DamagedError, MalformedError
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.transfer import import_records, verify_tree

READY = b"ready"
FLUSH_CHANGES = 20_000
_TREE = re.compile(r"tree-([0-9]{1,9})\Z")


class Shelf:
    """Open it before anything else of the directory, and close it last."""

    def __init__(self, directory: str, workspace_id: bytes) -> None:
        """Raises MalformedError if another process has it, or another workspace's tree is in it; OSError."""
        self.directory = directory
        self.workspace_id = workspace_id
        os.makedirs(directory, mode=0o700, exist_ok=True)  # it holds the content of the workspace
        self._lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise MalformedError(f"{directory} is in use by another process: give each worker its own") from error

    @property
    def chunks_path(self) -> str:
        return os.path.join(self.directory, "chunks")

    def close(self) -> None:
        os.close(self._lock)

    def open_newest(self) -> TreeStore | None:
        """The tree that counts; None if none was built to the end. Every other one is removed."""
        found: TreeStore | None = None
        for number in sorted(self.numbers(), reverse=True):
            if found is None:
                store = TreeStore(self.path(number))
                if store.record("state") == READY:
                    self._check_ours(store)
                    found = store
                    continue
                store.close()
            shutil.rmtree(self.path(number))
        return found

    def _check_ours(self, store: TreeStore) -> None:
        known = store.record("workspace_id") or b""
        if known != self.workspace_id:
            store.close()
            raise MalformedError(f"{self.directory} belongs to the workspace with id {known.hex()}: name another")

    def build(self, history_id: bytes) -> Building:
        return Building(TreeStore(self.path(max(self.numbers(), default=0) + 1)), self.workspace_id, history_id)

    def remove_others(self, kept: TreeStore) -> None:
        """Readers that still look at an older tree keep its file open as long as they do."""
        for number in self.numbers():
            if self.path(number) != kept.path:
                shutil.rmtree(self.path(number))

    def numbers(self) -> list[int]:
        return [int(match[1]) for name in os.listdir(self.directory) if (match := _TREE.match(name))]

    def path(self, number: int) -> str:
        return os.path.join(self.directory, f"tree-{number}")


def forget_failure(directory: str, *, rebuild: bool) -> Failure | None:
    """The operator's word, while nobody has the directory open, that what stopped its tree is understood (WS-5); with
    `rebuild` the tree is fetched anew at the next start. Answers what had stopped it. Raises MalformedError if the
    directory is in use."""
    shelf = Shelf(directory, b"")
    try:
        found: Failure | None = None
        for number in shelf.numbers():
            store = TreeStore(shelf.path(number))
            kept = store.record(FAILURE_RECORD)
            if kept is not None and store.record("state") == READY:
                found = Failure(**json.loads(kept))
            store.put_record(FAILURE_RECORD, None)
            if rebuild:
                store.put_record("state", None)
            store.flush_now()
            store.close()
        return found
    finally:
        shelf.close()


class Building:
    """A tree from the pieces of a snapshot. In a thread of its own; nobody else sees it before `finish` returns."""

    def __init__(self, store: TreeStore, workspace_id: bytes, history_id: bytes) -> None:
        self._store = store
        self._workspace_id = workspace_id
        store.put_record("workspace_id", workspace_id)
        store.put_record("history_id", history_id)

    def add(self, records: Iterable[tuple[int, bytes, bytes]]) -> None:
        """(family number, key, value). Raises MalformedError for a record of something else."""
        self._write(list(import_records(self._workspace_id, records)))

    def finish(self, log_index: int, root: bytes) -> TreeStore:
        """Raises DamagedError if the records do not add up to the root."""
        self._store.flush_now()
        found = verify_tree(self._store, self._workspace_id)
        if found is None or not found.sound or (found.log_index, found.stored_root) != (log_index, root):
            raise DamagedError(f"the snapshot at log_index {log_index} does not add up to its root {root.hex()}")
        places: list[Change] = []
        for directory, name, entry in TreeView(self._store, self._workspace_id).all_entries():
            place = place_prefix(self._workspace_id, entry.inode_id) + directory + name
            places.append(Change(Family.META, place, b""))
            if len(places) >= FLUSH_CHANGES:
                self._write(places)
                places = []
        self._write(places)
        self._store.put_record("state", READY)
        self._store.flush_now()
        self._store.sync()  # the tree before goes next, and must not go alone
        return self._store

    def _write(self, changes: list[Change]) -> None:
        self._store.write(changes)
        if self._store.unflushed >= FLUSH_CHANGES:
            self._store.flush_now()

    def give_up(self) -> None:
        """It did not become a tree; the next start removes what is on disk."""
        self._store.close()
