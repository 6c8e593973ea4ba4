"""A mirror: the tree in a database, the directory on disk, and the way both move from one log index to the next.

Owns: the order of writing (WS-55). A batch of log records becomes: new files, built aside and dressed; one database
transaction with the new tree and the plan; one sync; the steps of the plan; one sync; `applied_index`.
Never: talks to a cluster: content it needs is asked for as `Window`s and handed in.
Invariants: `applied_index` never passes what is synced; a crash at any point leaves a plan that is run again from its
beginning, or no plan and nothing of the batch; a record whose replay arrives at another root changes nothing (WS-5).
One thread owns a mirror.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hypercluster.client.sqlite_store import SqliteStore
from hypercluster.client.worker import plan as plans
from hypercluster.client.worker.mirror_disk import Block, MirrorDisk
from hypercluster.client.worker.names import Names
from hypercluster.client.worker.plan import Plan, Rewrite
from hypercluster.client.worker.planning import Planner, TreeDiff, diff_of
from hypercluster.client.worker.tree_view import TreeView
from hypercluster.errors import MalformedError, check
from hypercluster.limits import MIB
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import KIND_SYMLINK, Inode
from hypercluster.state_machine.workspace.replaying import replay, take_replayed

DATABASE = "tree.db"
WINDOW_BYTES = 8 * MIB
WINDOW_PIECES = 2_000
PROBLEMS_KEPT = 100
ONE_TRANSACTION = 1 << 30


@dataclass(frozen=True, slots=True)
class Portion:
    """Some pieces of one file. `path` b'' means a file in the build area, otherwise one that is rewritten."""

    inode: Inode
    path: bytes
    pieces: tuple[Extent, ...]  # chunk_hash b'' writes zeros
    first: bool
    last: bool


@dataclass(slots=True)
class Window:
    """What is written at one time: bounded in bytes, with the chunks it takes."""

    portions: list[Portion] = field(default_factory=list)

    def hashes(self) -> list[bytes]:
        return list({p.chunk_hash: None for portion in self.portions for p in portion.pieces if p.chunk_hash})


@dataclass(slots=True)
class Batch:
    """Records replayed in memory, not yet committed. `problem` stopped it before `problem_index`."""

    upto: int
    root: bytes
    plan: Plan
    changes: list[Change]
    diff: TreeDiff
    builds: list[tuple[Inode, list[Extent]]]
    chunks: dict[bytes, bytes]
    problem: str = ""
    problem_index: int = 0


class Mirror:
    def __init__(self, top: str, state: str, workspace_id: bytes) -> None:
        os.makedirs(state, exist_ok=True)
        self.workspace_id = workspace_id
        self.problems: dict[str, str] = {}  # path -> what could not be set there
        self.disk = MirrorDisk(os.fsencode(os.path.abspath(top)), os.fsencode(os.path.abspath(state)), self._report)
        self.disk.prepare()
        self.store = SqliteStore(os.path.join(state, DATABASE), batch_writes=ONE_TRANSACTION)
        try:
            self._check_ours()
        except BaseException:
            self.store.close()
            raise
        self.overlay = Overlay(self.store)
        self.names = Names(self.store)
        self.view = TreeView(self.overlay, workspace_id)
        if self.plan() is None:
            self.disk.clear_areas()
        self.names.load(TreeView(self.store, workspace_id))

    def _check_ours(self) -> None:
        """A mirror is wiped when it is rebuilt, so nothing else may ever be taken for one."""
        known = self.store.record("workspace_id")
        top = os.fsdecode(self.disk.top)
        if known is None and os.listdir(self.disk.top):
            raise MalformedError(f"{top} is not empty, and is no mirror: name a new or empty directory")
        if known is not None and known != self.workspace_id:
            raise MalformedError(
                f"{top} mirrors the workspace with id {known.hex()}: name another directory, or remove {top} and "
                f"{os.path.dirname(self.store.path)}"
            )

    def close(self) -> None:
        self.store.close()

    def _report(self, path: bytes, words: str) -> None:
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems[os.fsdecode(path)] = words

    # --- where it stands ----------------------------------------------------------------------------

    def is_of(self, history_id: bytes) -> bool:
        """Whether what is here belongs to this workspace and history, and was built to the end."""
        record = self.store.record
        return (
            record("workspace_id") == self.workspace_id
            and record("history_id") == history_id
            and record("state") == b"ready"
        )

    def history_id(self) -> bytes:
        return self.store.record("history_id") or b""

    @property
    def applied_index(self) -> int:
        """Everything up to it is in the directory, and synced."""
        return int.from_bytes(self.store.record("applied_index") or b"", "big")

    def root(self) -> bytes:
        """Of the tree in the database: the root at its header's log index."""
        header = self.view.header()
        return header.root if header is not None else b""

    def plan(self) -> Plan | None:
        """What was begun and not finished."""
        encoded = self.store.record("plan")
        return None if encoded is None else plans.decode(encoded)

    # --- a batch ------------------------------------------------------------------------------------

    def replay(self, records: list[LogRecord]) -> Batch:
        """Runs the records over the tree in memory and plans what they mean for the directory."""
        check(self.plan() is None, "the plan before is done")
        chunks: dict[bytes, bytes] = {}
        problem = ""
        good = 0
        root = self.root()
        for record in records:
            effects = replay(self.overlay, self.workspace_id, record)
            if effects.problem:
                problem = effects.problem
                break
            chunks |= effects.chunks
            root = effects.root
            good += 1
        if problem:
            # The overlay holds half of an operation: start over and stop before it.
            self.overlay.discard()
            for record in records[:good]:
                effects = replay(self.overlay, self.workspace_id, record)
                check(not effects.problem, "a replay that passed does not pass again")
        # A record is changed by every operation of a batch on it; only the last of them is written.
        last = {(change.family, change.key): change for change in take_replayed(self.overlay)}
        changes = list(last.values())
        upto = records[good - 1].log_index if good else self.applied_index
        old = TreeView(self.store, self.workspace_id)
        diff = diff_of(changes, old, self.view)
        planner = Planner(diff, old, self.view, self.names, upto)
        plan = planner.make()
        builds = [(inode, self.view.extents(inode)) for inode in planner.builds if inode.kind != KIND_SYMLINK]
        for inode in planner.builds:
            if inode.kind == KIND_SYMLINK:
                self.disk.build_symlink(inode)
                self.dress_built(inode)
        return Batch(
            upto, root, plan, changes, diff, builds, chunks, problem, records[good].log_index if problem else 0
        )

    def commit(self, batch: Batch) -> None:
        """The new tree and the plan become durable together, after what was built."""
        self.store.put_record("plan", batch.plan.encode())
        self.store.write(batch.changes)
        self.store.write(self.names.apply(batch.diff.removed(), batch.diff.added()))
        if batch.builds:
            self.store.commit_batch()
            self.disk.sync()  # one call for the new files and the database's log
        else:
            self.store.commit_batch(sync=True)

    def abandon(self) -> None:
        """Nothing of a batch that could not be committed stays in memory; what was built for it is built again."""
        self.store.roll_back()
        self.overlay.discard()
        self.names.load(TreeView(self.store, self.workspace_id))

    def run_names(self, plan: Plan) -> None:
        """The stages that move names: detach, place, link."""
        if not plan.detached:
            self._open_up(step.path for step in plan.detach)
            for step in plan.detach:
                self.disk.detach(step)
            if plan.moves:
                plan.detached = True
                self.disk.sync()
                self.store.put_record("plan", plan.encode())
                self.store.commit_batch(sync=True)
        for place in plan.place:
            # One by one: what is above a place may have come to where it is a step ago.
            self._open_up([place.path])
            self.disk.place(place)
        self._open_up(path for step in plan.link for path in (step.path, step.existing))
        for link in plan.link:
            self.disk.link(link)
        self._open_up(step.path for step in plan.content)

    def finish(self, plan: Plan, *, rebuilt: bool = False) -> None:
        """Metadata last, because every step before moves some time; then the sync, then the index. `rebuilt`: from
        here on it is a mirror; not a moment earlier, as an open transaction is committed when the store is closed."""
        self._open_up(step.path for step in plan.metadata)
        for step in plan.metadata:
            inode = self.view.inode(step.inode_id)
            check(inode is not None, "a plan dresses an inode that is not in the tree")
            assert inode is not None
            self.disk.dress(self.disk.path(step.path), inode, self.view.xattrs(step.inode_id))
        if not plan.is_empty:
            self.disk.sync()
        self.store.put_record("applied_index", plan.upto.to_bytes(8, "big"))
        self.store.put_record("plan", None)
        if rebuilt:
            self.store.put_record("state", b"ready")
        self.store.commit_batch()
        self.disk.clear_areas((b"trash", b"build"))

    def _open_up(self, paths: Iterable[bytes]) -> None:
        """The directories above the paths let their owner in until the metadata stage, which dresses them last."""
        if os.geteuid() != 0:
            self.disk.open_up_directories(_ancestors(paths))

    # --- content ------------------------------------------------------------------------------------

    def rewrites(self, plan: Plan) -> Iterator[Window]:
        """The content stage, as windows. Reads the tree as it is after the batch."""
        return windows(self._rewrite_portions(step) for step in plan.content)

    def _rewrite_portions(self, step: Rewrite) -> tuple[Inode, bytes, list[Extent]]:
        inode = self.view.inode(step.inode_id)
        check(inode is not None, "a plan rewrites an inode that is not in the tree")
        assert inode is not None
        return inode, step.path, pieces_in(self.view.extents(inode), step.ranges)

    def write_window(self, window: Window, chunks: Mapping[bytes, bytes]) -> None:
        for portion in window.portions:
            inode = portion.inode
            blocks = (Block(p.offset, _content(p, chunks)) for p in portion.pieces)
            if portion.path:
                self.disk.rewrite(portion.path, inode.size, blocks, resize=portion.first)
                continue
            self.disk.build_file(inode, blocks, fresh=portion.first)
            if portion.last:
                self.dress_built(inode)

    def dress_built(self, inode: Inode) -> None:
        built = self.disk.in_area(b"build", inode.inode_id)
        self.disk.dress(built, inode, self.view.xattrs(inode.inode_id), xattrs_known=False)


def build_windows(builds: Iterable[tuple[Inode, list[Extent]]]) -> Iterator[Window]:
    """New files, as windows."""
    return windows((inode, b"", extents) for inode, extents in builds)


def windows(files: Iterable[tuple[Inode, bytes, list[Extent]]]) -> Iterator[Window]:
    """Portions in order, as many at a time as fit a window; a large file spans several."""
    window, bytes_held, pieces_held = Window(), 0, 0
    for inode, path, pieces in files:
        start = 0
        while True:
            end = start
            while end < len(pieces) and bytes_held < WINDOW_BYTES and pieces_held < WINDOW_PIECES:
                bytes_held += pieces[end].length
                pieces_held += 1
                end += 1
            last = end == len(pieces)
            window.portions.append(Portion(inode, path, tuple(pieces[start:end]), start == 0, last))
            pieces_held += 1
            if bytes_held >= WINDOW_BYTES or pieces_held >= WINDOW_PIECES:
                yield window
                window, bytes_held, pieces_held = Window(), 0, 0
            if last:
                break
            start = end
    if window.portions:
        yield window


def pieces_in(extents: list[Extent], ranges: Iterable[tuple[int, int]]) -> list[Extent]:
    """The parts of `extents` in the ranges, and zeros (chunk_hash b'') for the holes between them."""
    out: list[Extent] = []
    at = 0
    for offset, length in ranges:
        position, end = offset, offset + length
        while at < len(extents) and extents[at].end <= position:
            at += 1
        index = at
        while position < end:
            extent = extents[index] if index < len(extents) else None
            if extent is None or extent.offset >= end:
                out += _zeros(position, end)
                break
            if extent.offset > position:
                out += _zeros(position, extent.offset)
                position = extent.offset
            stop = min(end, extent.end)
            skip = position - extent.offset
            out.append(Extent(position, stop - position, extent.chunk_offset + skip, extent.chunk_hash))
            position = stop
            index += 1
    return out


def _zeros(start: int, end: int) -> Iterator[Extent]:
    for offset in range(start, end, MIB):
        yield Extent(offset, min(MIB, end - offset), 0, b"")


def _content(piece: Extent, chunks: Mapping[bytes, bytes]) -> bytes:
    if not piece.chunk_hash:
        return bytes(piece.length)
    content = chunks[piece.chunk_hash]
    if piece.chunk_offset == 0 and piece.length == len(content):
        return content
    return content[piece.chunk_offset : piece.chunk_offset + piece.length]


def _ancestors(paths: Iterable[bytes]) -> list[bytes]:
    """Every directory above the paths, the top first."""
    found: dict[bytes, None] = {b"": None}
    for path in paths:
        at = path.find(b"/")
        while at >= 0:
            found[path[:at]] = None
            at = path.find(b"/", at + 1)
    return list(found)
