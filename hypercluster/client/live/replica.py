"""The tree of one workspace on this host: log records in, one visible prefix out (WS-1, WS-5).

Owns: the store, the overlay over it, the lock, who holds what open here, and the places of every inode. A record is
replayed with the servers' own code, its root compared, and what it changed handed to whoever keeps caches above.
Never: talks to a cluster; waits, but for the lock and the disk.
Invariants: what readers see under the lock is the state after some prefix; a record whose replay differs changes
nothing; `durable_index` follows in transactions that hold whole records; an orphan stays while it is held here, and
goes some time after nobody holds it, as does what a restart finds.
Threads: any, through the lock; `flush` in the thread of the disk.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.ports import Applied, Process
from hypercluster.client.live.store import TreeStore
from hypercluster.client.live.tree_lock import TreeLock
from hypercluster.errors import DamagedError, check
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.orphans import let_go, list_orphans
from hypercluster.state_machine.workspace.queries import read_header, read_inode
from hypercluster.state_machine.workspace.records import Header, Inode
from hypercluster.state_machine.workspace.replaying import (
    Linked,
    Made,
    Removed,
    Renamed,
    ReplayEffects,
    Resized,
    Written,
    replay,
    take_replayed,
)

ORPHAN_LINGERS_S: Final = 2.0  # between a lookup and the open that holds it the last name may go
LET_GO_A_TURN: Final = 16
PLACE: Final = b"P"

Entry = tuple[bytes, bytes]  # directory, name


def place_prefix(workspace_id: bytes, inode_id: bytes) -> bytes:
    """In Family.META, of this worker alone: every (directory, name) of an inode stands behind it."""
    return workspace_id + PLACE + inode_id


@dataclass(frozen=True, slots=True)
class Slice:
    """What one call of `apply` did: `applied` in order, and the problem that stopped it before `problem_index`."""

    applied: tuple[Applied, ...]
    problem: str = ""
    problem_index: int = 0


@dataclass(slots=True)
class Held:
    """An inode held open here."""

    opens: int
    since_s: float


class Replica:
    """See the module."""

    def __init__(self, store: TreeStore, cache: ChunkCache, workspace_id: bytes) -> None:
        """Raises DamagedError if the store holds no such tree."""
        self.workspace_id = workspace_id
        self._cache = cache
        self.lock = TreeLock()
        self.store = store
        self.overlay = Overlay(store)
        header = read_header(store, workspace_id)
        if header is None:
            raise DamagedError(f"{store.path} holds no tree of the workspace {workspace_id.hex()}")
        self.log_index = self.durable_index = header.log_index
        self.root = header.root
        self.uid, self.gid = header.uid, header.gid
        self._held: dict[bytes, Held] = {}
        found_s = time.monotonic()
        self._orphans = dict.fromkeys(list_orphans(store, workspace_id), found_s)  # id -> when it was first seen

    def header(self) -> Header:
        """Under the lock."""
        found = read_header(self.store, self.workspace_id)
        check(found is not None, "a tree does not lose its header")
        assert found is not None
        return found

    def record(self, name: str) -> bytes | None:
        """One of the worker's own records."""
        with self.lock:
            return self.store.record(name)

    def put_record(self, name: str, value: bytes | None) -> None:
        with self.lock:
            self.store.put_record(name, value)

    # --- applying -----------------------------------------------------------------------------------

    def apply(self, records: Sequence[tuple[LogRecord, Process | None]], turn_s: float) -> Slice:
        """Replays records in order, at least one and then as many as fit the turn; visible at once when it returns."""
        end_s = time.monotonic() + turn_s
        with self.lock:
            done: list[ReplayEffects] = []
            problem = ""
            for record, _ in records:
                effects = replay(self.overlay, self.workspace_id, record)
                if effects.problem:
                    problem = effects.problem
                    self._replay_again([found for found, _ in records[: len(done)]])
                    break
                done.append(effects)
                if time.monotonic() >= end_s:
                    break
            changes = take_replayed(self.overlay)
            applied: list[Applied] = []
            for effects, (_, own) in zip(done, records, strict=False):
                applied.append(self._describe(effects, own, changes))
            for effects in done:
                self._cache.put(effects.chunks)  # content that came with the operation is there before it is visible
            self.store.write(changes)
            if done:
                self.log_index, self.root = done[-1].log_index, done[-1].root
        return Slice(tuple(applied), problem, records[len(done)][0].log_index if problem else 0)

    def _replay_again(self, records: Sequence[LogRecord]) -> None:
        """The overlay holds half of an operation: forget it, and do again what passed before it."""
        self.overlay.discard()
        for record in records:
            effects = replay(self.overlay, self.workspace_id, record)
            check(not effects.problem, "a replay that passed does not pass again")

    def _describe(self, effects: ReplayEffects, own: Process | None, changes: list[Change]) -> Applied:
        gone, come = _entries(effects)
        changes += [Change(Family.META, self._place(inode, *entry), None) for inode, entry in gone]
        changes += [Change(Family.META, self._place(inode, *entry), b"") for inode, entry in come]
        for inode in effects.touched:
            if not inode.nlink:
                self._orphans.setdefault(inode.inode_id, time.monotonic())
        content: tuple[tuple[bytes, int, int], ...] = ()
        match effects.effect:
            case Written(inode, offset, length, _):
                content = ((inode.inode_id, offset, length),)
            case Resized(inode):
                content = ((inode.inode_id, inode.size, -1),)
        names = dict.fromkeys(entry for _, entry in (*gone, *come))
        touched = tuple(inode.inode_id for inode in effects.touched)
        return Applied(effects.log_index, touched, content, tuple(names), own)

    def _place(self, inode: Inode, directory: bytes, name: bytes) -> bytes:
        return place_prefix(self.workspace_id, inode.inode_id) + directory + name

    # --- orphans ------------------------------------------------------------------------------------

    def hold(self, inode_id: bytes) -> Inode:
        with self.lock:
            inode = read_inode(self.store, self.workspace_id, inode_id)
            if inode is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            held = self._held.get(inode_id)
            if held is None:
                self._held[inode_id] = Held(1, time.monotonic())
            else:
                held.opens += 1
            return inode

    def drop(self, inode_id: bytes) -> None:
        with self.lock:
            held = self._held.get(inode_id)
            check(held is not None, "what is dropped was held")
            assert held is not None
            held.opens -= 1
            if not held.opens:
                del self._held[inode_id]
                if inode_id in self._orphans:
                    self._orphans[inode_id] = time.monotonic()

    def adopt(self, other: Replica) -> None:
        """What was held in the tree before this one is held in this one, which nobody has seen yet."""
        self.lock, self._held = other.lock, other._held

    def held_for(self, seconds: float) -> list[bytes]:
        """Inodes that have been held open for so long (WS-44)."""
        since_s = time.monotonic() - seconds
        with self.lock:
            long = [(held.since_s, inode_id) for inode_id, held in self._held.items() if held.since_s <= since_s]
        return [inode_id for _, inode_id in sorted(long)]

    def counts(self) -> tuple[int, int]:
        """(held, orphans)."""
        return len(self._held), len(self._orphans)

    def prune(self, lingers_s: float = ORPHAN_LINGERS_S) -> int:
        """Lets some orphans go that nobody here has held for a while."""
        with self.lock:
            before_s = time.monotonic() - lingers_s
            idle = [i for i, seen_s in self._orphans.items() if seen_s <= before_s and i not in self._held]
            for inode_id in idle[:LET_GO_A_TURN]:
                let_go(self.overlay, self.workspace_id, inode_id)
                del self._orphans[inode_id]
            if idle:
                self.store.write(take_replayed(self.overlay))
            return len(idle[:LET_GO_A_TURN])

    # --- disk ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """What is visible becomes durable. Raises OSError; then it is in memory as before."""
        with self.lock:
            if not self.store.begin_flush():
                return
            upto = self.log_index
        try:
            self.store.flush()
        except BaseException:
            with self.lock:
                self.store.undo_flush()
            raise
        with self.lock:
            self.store.end_flush()
            self.durable_index = upto

    def close(self) -> None:
        with self.lock:
            self.store.close()


Places = list[tuple[Inode, Entry]]


def _entries(effects: ReplayEffects) -> tuple[Places, Places]:
    """The places that are gone and those that have come."""
    match effects.effect:
        case Made(inode, directory, name) | Linked(inode, directory, name):
            return [], [(inode, (directory, name))]
        case Removed(inode, directory, name):
            return [(inode, (directory, name))], []
        case Renamed(inode, directory, name, new_directory, new_name, replaced):
            gone: Places = [(inode, (directory, name))]
            if replaced is not None:
                gone.append((replaced, (new_directory, new_name)))
            return gone, [(inode, (new_directory, new_name))]
        case _:
            return [], []
