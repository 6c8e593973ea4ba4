"""From two trees to a plan: what differs, and which steps lead from one to the other. Pure.

Owns: the reading of an overlay's changes as differences of entries and inodes, the plan of plan.py made from them, and
the list of files that have to be built first.
Never: touches a disk, fetches content.
Invariants: the plan depends on the two trees alone, not on the operations between them, so a batch of operations
costs what it changes in the end; every inode that lives on keeps its file on disk, however it was renamed or linked.
"""

from __future__ import annotations

import itertools
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hypercluster.client.worker.names import Names, path_in
from hypercluster.client.worker.plan import Discard, Dress, Link, MakeDirectory, Place, Plan, Rewrite, Stash
from hypercluster.client.worker.tree_view import ID_BYTES, EntryRef, TreeView
from hypercluster.errors import check
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import ENTRY, INODE, KIND_DIRECTORY, KIND_FILE, ROOT_ID, Inode

OWNER_ALL = 0o700
Spot = tuple[bytes, bytes]  # (directory, name)


@dataclass(slots=True)
class TreeDiff:
    """What differs between the tree of the store and that of the overlay."""

    entries: dict[Spot, tuple[EntryRef | None, EntryRef | None]] = field(default_factory=dict)
    inodes: set[bytes] = field(default_factory=set)

    def removed(self) -> Iterable[tuple[bytes, bytes, EntryRef]]:
        return [(d, n, old) for (d, n), (old, _) in self.entries.items() if old is not None]

    def added(self) -> Iterable[tuple[bytes, bytes, EntryRef]]:
        return [(d, n, new) for (d, n), (_, new) in self.entries.items() if new is not None]


def diff_of(changes: Iterable[Change], old: TreeView, new: TreeView) -> TreeDiff:
    """`changes` are those that lead from `old` to `new`."""
    found = TreeDiff()
    prefix = len(old.workspace_id)
    for change in changes:
        key = change.key
        if change.family is not Family.TREE or not key.startswith(old.workspace_id):
            continue
        kind = key[prefix : prefix + 1]
        if kind == ENTRY:
            spot = (key[prefix + 1 : prefix + 1 + ID_BYTES], key[prefix + 1 + ID_BYTES :])
            if spot not in found.entries:
                before, after = old.entry(*spot), new.entry(*spot)
                if before != after:
                    found.entries[spot] = (before, after)
        elif kind == INODE:
            found.inodes.add(key[prefix + 1 : prefix + 1 + ID_BYTES])
    return found


class Planner:
    """Makes one plan. `builds` are the files and symlinks that must lie in the build area before it runs."""

    def __init__(self, diff: TreeDiff, old: TreeView, new: TreeView, names: Names, upto: int) -> None:
        self._diff = diff
        self._old = old
        self._new = new
        self._names = names
        moved = {e.inode_id: (d, n) for d, n, e in diff.added() if e.is_directory}
        self._new_directories = ChainMap(moved, names.directories)
        self._old_paths: dict[bytes, bytes] = {}
        self._new_paths: dict[bytes, bytes] = {}
        self._left: dict[bytes, list[Spot]] = {}  # inode -> spots that named it and do not any more
        self._taken: dict[bytes, list[Spot]] = {}  # inode -> spots that name it now and did not
        for directory, name, entry in diff.removed():
            self._left.setdefault(entry.inode_id, []).append((directory, name))
        for directory, name, entry in diff.added():
            self._taken.setdefault(entry.inode_id, []).append((directory, name))
        self._kept: dict[bytes, Spot | None] = {}
        self._befores: dict[bytes, Inode | None] = {}
        self.plan = Plan(upto)
        self.builds: list[Inode] = []

    def make(self) -> Plan:
        for inode_id, spots in self._left.items():
            self._detach(inode_id, sorted(spots))
        self.plan.detach.sort(key=lambda step: step.path.count(b"/"), reverse=True)
        for inode_id, spots in self._taken.items():
            self._attach(inode_id, sorted(spots))
        self.plan.place.sort(key=lambda step: step.path.count(b"/"))
        self._changed_inodes()
        return self.plan

    # --- where things are ---------------------------------------------------------------------------

    def _old_path(self, spot: Spot) -> bytes:
        return self._joined(self._old_paths, self._names.directories, spot)

    def _new_path(self, spot: Spot) -> bytes:
        return self._joined(self._new_paths, self._new_directories, spot)

    @staticmethod
    def _joined(cache: dict[bytes, bytes], directories: Mapping[bytes, Spot], spot: Spot) -> bytes:
        directory, name = spot
        base = cache.get(directory)
        if base is None:
            base = cache[directory] = path_in(directories, directory)
        return base + b"/" + name if base else name

    def _before(self, inode_id: bytes) -> Inode | None:
        if inode_id not in self._befores:
            self._befores[inode_id] = self._old.inode(inode_id)
        return self._befores[inode_id]

    def _kept_spot(self, inode_id: bytes) -> Spot | None:
        """A name the inode had before and still has."""
        if inode_id not in self._kept:
            if self._before(inode_id) is None:
                return None  # it is new: spare the scan
            left = set(self._left.get(inode_id, ()))
            self._kept[inode_id] = next((s for s in self._names.places(inode_id) if s not in left), None)
        return self._kept[inode_id]

    def _spot_of(self, inode_id: bytes) -> Spot:
        """Some name of a file in the new tree that is there once the place stage is done."""
        kept = self._kept_spot(inode_id)
        if kept is not None:
            return kept
        taken = self._taken.get(inode_id)
        check(bool(taken), "an inode of the tree has no name")
        assert taken is not None
        return min(taken)

    # --- stages -------------------------------------------------------------------------------------

    def _detach(self, inode_id: bytes, spots: list[Spot]) -> None:
        before = self._before(inode_id)
        lives_on = self._new.inode(inode_id) is not None
        check(before is not None, "an entry of the mirror names no inode")
        assert before is not None
        if before.kind == KIND_DIRECTORY:
            for spot in spots:
                if lives_on:
                    self.plan.detach.append(Stash(self._old_path(spot), inode_id))
                elif self._lives(spot[0]):
                    self.plan.detach.append(Discard(self._old_path(spot), inode_id, True))
            return
        must_keep = lives_on and self._kept_spot(inode_id) is None
        for spot in spots:
            if must_keep:
                self.plan.detach.append(Stash(self._old_path(spot), inode_id))
                must_keep = False
                continue
            after = self._diff.entries[spot][1]
            replaced = after is not None and not after.is_directory
            # A file that takes the name replaces this one in one step; a directory that goes takes its names along.
            if not replaced and self._lives(spot[0]):
                self.plan.detach.append(Discard(self._old_path(spot), inode_id, False))

    def _lives(self, directory: bytes) -> bool:
        return self._new.inode(directory) is not None

    def _attach(self, inode_id: bytes, spots: list[Spot]) -> None:
        after = self._new.inode(inode_id)
        check(after is not None, "an entry of the tree names no inode")
        assert after is not None
        before = self._before(inode_id)
        if after.kind == KIND_DIRECTORY:
            step = MakeDirectory if before is None else Place
            self.plan.place += [step(self._new_path(spot), inode_id) for spot in spots]
            return
        if before is None:
            self.builds.append(after)
        existing = self._kept_spot(inode_id) if before is not None else None
        if existing is None:
            existing = spots.pop(0)
            self.plan.place.append(Place(self._new_path(existing), inode_id))
        self.plan.link += [Link(self._new_path(spot), self._new_path(existing)) for spot in spots]

    def _changed_inodes(self) -> None:
        touched = set(self._diff.inodes) | {directory for directory, _ in self._diff.entries}
        files: list[Dress] = []
        directories: list[Dress] = []
        for inode_id in sorted(touched):
            after = self._new.inode(inode_id)
            if after is None:
                continue
            before = self._before(inode_id)
            if after.kind == KIND_DIRECTORY:
                directories.append(Dress(path_in(self._new_directories, inode_id), inode_id))
                continue
            if before is None:
                continue  # it was dressed when it was built
            path = self._new_path(self._spot_of(inode_id))
            if after.kind == KIND_FILE and (before.content_digest, before.size) != (after.content_digest, after.size):
                ranges = changed_ranges(self._old.extents(before), self._new.extents(after), after.size)
                self.plan.content.append(Rewrite(path, inode_id, after.size, tuple(ranges)))
            files.append(Dress(path, inode_id))
        above = {directory for directory, _ in self._diff.entries}
        above |= {self._spot_of(step.inode_id)[0] for step in files}
        above |= {step.inode_id for step in directories}
        above |= {spot[0] for spot in self._kept.values() if spot is not None}
        directories += [Dress(path_in(self._new_directories, i), i) for i in self._shut_out(above) - touched]
        directories.sort(key=lambda step: (step.path.count(b"/"), step.path), reverse=True)
        self.plan.metadata = files + directories

    def _shut_out(self, above: set[bytes]) -> set[bytes]:
        """Directories above a step whose mode shuts out the owner. A mirror that is not run by root has to let itself
        in, so they are dressed again at the end."""
        found: set[bytes] = set()
        for directories in (self._names.directories, self._new_directories):
            seen: set[bytes] = set()
            for directory in above:
                while directory not in seen and (directory == ROOT_ID or directory in directories):
                    seen.add(directory)
                    inode = self._new.inode(directory)
                    if inode is not None and inode.mode & OWNER_ALL != OWNER_ALL:
                        found.add(directory)
                    if directory == ROOT_ID:
                        break
                    directory = directories[directory][0]  # noqa: PLW2901 (the walk up)
        return found


def changed_ranges(old: list[Extent], new: list[Extent], size: int) -> list[tuple[int, int]]:
    """(offset, length) of what reads differently, below `size`; holes included. What lies beyond the old extents and
    is a hole now needs no write: growing a file makes zeros."""
    bounds = sorted({0, size, *(b for e in (*old, *new) for b in (e.offset, e.end) if b < size)})
    ranges: list[tuple[int, int]] = []
    before, after = _Sweep(old), _Sweep(new)
    for start, end in itertools.pairwise(bounds):
        if before.at(start) == after.at(start):
            continue
        if ranges and ranges[-1][0] + ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end - ranges[-1][0])
        else:
            ranges.append((start, end - start))
    return ranges


class _Sweep:
    """What a list of extents says at rising offsets."""

    def __init__(self, extents: list[Extent]) -> None:
        self._extents = extents
        self._next = 0

    def at(self, offset: int) -> tuple[bytes, int] | None:
        """(chunk, where in the chunk offset 0 of the file would be), None in a hole."""
        while self._next < len(self._extents) and self._extents[self._next].end <= offset:
            self._next += 1
        if self._next == len(self._extents) or self._extents[self._next].offset > offset:
            return None
        extent = self._extents[self._next]
        return extent.chunk_hash, extent.chunk_offset - extent.offset
