"""A mirror from a snapshot: an empty directory and an empty database filled with one whole tree (WS-52).

Owns: the order of a rebuild. The record `state` says "rebuilding" from before the first change until after the last
sync, and a rebuild that did not end begins again; so its own steps need no plan on disk.
Never: talks to a cluster; content comes in as for a batch.
Invariants: a tree whose root, computed from its inodes and entries alone, is not the one the snapshot names is not
built; `applied_index` is set after everything is synced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypercluster.client.worker.mirror import Mirror
from hypercluster.client.worker.names import place_key
from hypercluster.client.worker.plan import Dress, Link, MakeDirectory, Place, Plan
from hypercluster.errors import DamagedError, check
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_SYMLINK, ROOT_ID, Inode
from hypercluster.state_machine.workspace.transfer import import_records, verify_tree

GROUP_ENTRIES = 1_000
WRITE_PAIRS = 5_000

Group = tuple[list[tuple[Inode, list[Extent]]], Plan]


class Rebuild:
    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._upto = 0

    def begin(self, history_id: bytes) -> None:
        """From here on the mirror is nothing until `finish`."""
        mirror = self._mirror
        for name in ("applied_index", "plan", "history_id"):
            mirror.store.put_record(name, None)
        mirror.store.put_record("workspace_id", mirror.workspace_id)
        mirror.store.put_record("state", b"rebuilding")
        mirror.store.commit_batch(sync=True)
        mirror.overlay.discard()
        mirror.store.clear()
        mirror.store.put_record("history_id", history_id)
        mirror.store.commit_batch()
        mirror.disk.clear_areas()
        mirror.disk.wipe()

    def add(self, records: Iterable[tuple[int, bytes, bytes]]) -> None:
        """(family number, key, value) of the snapshot. Raises MalformedError for a record of something else."""
        self._mirror.store.write(import_records(self._mirror.workspace_id, records))
        self._mirror.store.commit_batch()

    def check(self, log_index: int, root: bytes) -> None:
        """All records are there. Raises DamagedError if they do not add up to the root."""
        found = verify_tree(self._mirror.store, self._mirror.workspace_id)
        if found is None or not found.sound or (found.log_index, found.stored_root) != (log_index, root):
            raise DamagedError(f"the snapshot at log_index {log_index} does not add up to its root {root.hex()}")
        self._upto = log_index
        self._remember_places()

    def _remember_places(self) -> None:
        mirror = self._mirror
        pending: list[Change] = []
        for directory, name, entry in mirror.view.all_entries():
            if not entry.is_directory:
                pending.append(Change(Family.META, place_key(entry.inode_id, directory, name), b""))
            if len(pending) >= WRITE_PAIRS:
                mirror.store.write(pending)
                pending = []
        mirror.store.write(pending)
        mirror.store.commit_batch()
        mirror.names.load(mirror.view)

    def groups(self) -> Iterator[Group]:
        """Files to build and the plan that names them, a thousand entries at a time, directories before what is in
        them. Further names of a file come after its first."""
        builds: list[tuple[Inode, list[Extent]]] = []
        plan = Plan(self._upto)
        first_path: dict[bytes, bytes] = {}  # of files with several names
        pending = [(b"", ROOT_ID)]
        while pending:
            base, directory = pending.pop()
            for name, entry in self._mirror.view.entries(directory):
                path = base + b"/" + name if base else name
                inode = self._mirror.view.inode(entry.inode_id)
                check(inode is not None, "an entry of a checked tree names no inode")
                assert inode is not None
                if inode.kind == KIND_DIRECTORY:
                    plan.place.append(MakeDirectory(path, inode.inode_id))
                    pending.append((path, inode.inode_id))
                elif inode.inode_id in first_path:
                    plan.link.append(Link(path, first_path[inode.inode_id]))
                else:
                    if inode.nlink > 1:
                        first_path[inode.inode_id] = path
                    self._build(inode, builds)
                    plan.place.append(Place(path, inode.inode_id))
                if len(plan.place) + len(plan.link) >= GROUP_ENTRIES:
                    yield builds, plan
                    builds, plan = [], Plan(self._upto)
        yield builds, plan

    def _build(self, inode: Inode, builds: list[tuple[Inode, list[Extent]]]) -> None:
        if inode.kind == KIND_SYMLINK:
            self._mirror.disk.build_symlink(inode)
            self._mirror.dress_built(inode)
        else:
            builds.append((inode, self._mirror.view.extents(inode)))

    def finish(self) -> None:
        """Directories get their modes and times once nothing is put into them any more."""
        mirror = self._mirror
        plan = Plan(self._upto, metadata=[Dress(b"", ROOT_ID)])
        paths = sorted(((mirror.names.path(i), i) for i in mirror.names.directories), reverse=True)
        plan.metadata[:0] = [Dress(path, inode_id) for path, inode_id in paths]
        mirror.finish(plan, rebuilt=True)
