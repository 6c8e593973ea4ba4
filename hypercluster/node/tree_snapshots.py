"""Takes the tree of a workspace whenever an entry marked it, and lets go of what the state has dropped (WS-53).

Owns: which snapshot is being written, how fast, and when pages that nobody names are swept away.
Never: holds up apply: the records are held as they were, and read beside the loop in small steps.
Invariants: one snapshot is written at a time, and one more waits for each workspace, the newest; a node that catches up
through many marks writes the last of them. A stored snapshot is dropped only when the state is past it and does not
list it: so a node that replays its log keeps what it wrote before it stopped.
"""

from __future__ import annotations

import errno
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Protocol

from hypercluster.credentials.certificates import KeyPair
from hypercluster.errors import DamagedError, DiskFailedError, DiskFullError, TurnedAwayError
from hypercluster.node.words import Turns
from hypercluster.state_machine.outcome import MarkedSnapshot
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.snapshots import newest_snapshot, read_snapshot
from hypercluster.state_machine.workspace.transfer import EXPORTED_FAMILIES
from hypercluster.storage.rocks import HeldRecords
from hypercluster.storage.runner import Runner
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.storage.snapshots.writer import SnapshotWriter
from hypercluster.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

STEP_RECORDS: Final = 1_000
WAITING_MAX: Final = 64  # workspaces whose records are held while another is written
LOOK_S: Final = 5.0
HELD_A_LOOK: Final = 64  # of the snapshots here, asked for whether the state still lists them
WORKSPACES_A_LOOK: Final = 64
_FIRST: Final = (b"", 0)


class Hold(Protocol):
    """Records of a family as they are at the call (storage/rocks.py)."""

    def __call__(self, family: Family, start: bytes, end: bytes, /) -> HeldRecords: ...


class TreeSnapshots:
    """`marked` is called by the apply loop, `look` by the lifecycle."""

    def __init__(
        self,
        store: SnapshotStore,
        reader: Reader,
        hold: Hold,
        runner: Runner,
        turns: Turns,
        metrics: Metrics,
        history_id: bytes,
        pair: Callable[[], KeyPair],
        on_fatal: Callable[[BaseException], None],
        *,
        bytes_per_s: int,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """`pair` is what this node signs with; `runner` is not the one that syncs. Without `has_room` nothing is
        written: the log and the state need what is left of the disk."""
        self.store = store
        self._reader = reader
        self._hold = hold
        self._runner = runner
        self._turns = turns
        self._metrics = metrics
        self._history_id = history_id
        self._pair = pair
        self._on_fatal = on_fatal
        self._bytes_per_s = bytes_per_s
        self._has_room = has_room
        self._waiting: dict[bytes, SnapshotWriter] = {}
        self._writing: SnapshotWriter | None = None
        self._busy = False  # a job of ours is with the runner
        self._sweep_due = True  # what a killed writer left
        self._fetching = False
        self._look_due_s = 0.0
        self._after = b""  # place of the workspace looked at last
        self._held_after = _FIRST  # the stored snapshot looked at last
        self._closed = False

    # -- writing ----------------------------------------------------------------------------------

    def marked(self, marks: Sequence[MarkedSnapshot]) -> None:
        """While the store shows what the entry left."""
        for mark in marks:
            if self._closed or self.store.find(mark.workspace_id, mark.log_index) is not None:
                continue
            if not self._has_room():
                self._give_up(mark, "there is little room on the disk")
                continue
            before = self._waiting.pop(mark.workspace_id, None)
            if before is not None:
                before.end()
            elif len(self._waiting) >= WAITING_MAX:
                self._give_up(mark, f"{WAITING_MAX} workspaces wait already")
                continue
            end = prefix_end(mark.workspace_id)
            sources = [(family, self._hold(family, mark.workspace_id, end)) for family in EXPORTED_FAMILIES]
            self._waiting[mark.workspace_id] = SnapshotWriter(self.store, mark, self._history_id, sources, self._pair())
        self._go_on()

    def _go_on(self) -> None:
        if self._busy or self._closed:
            return
        if self._writing is None and self._waiting:
            self._writing = self._waiting.pop(next(iter(self._waiting)))
        if self._writing is not None:
            self._step(self._writing)
        elif self._sweep_due and not self._fetching:
            self._sweep_due = False
            self._submit(self._sweep, self._swept)

    def _submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        def ended(error: BaseException | None) -> None:
            self._busy = False
            done(error)

        self._busy = True
        self._runner.submit(job, ended)

    def _step(self, writer: SnapshotWriter) -> None:
        published: list[bool] = []
        before_bytes = writer.bytes_read
        self._submit(
            lambda: published.append(writer.step(STEP_RECORDS)),
            lambda error: self._stepped(writer, bool(published and published[0]), before_bytes, error),
        )

    def _stepped(self, writer: SnapshotWriter, published: bool, before_bytes: int, error: BaseException | None) -> None:
        if error is None and not published and not self._has_room():
            error = DiskFullError("there is little room on the disk")
        if error is None and not published and not self._closed:
            pause_s = (writer.bytes_read - before_bytes) / self._bytes_per_s
            self._turns.call_at(self._turns.time() + pause_s, self._go_on)
            return
        writer.end()
        self._writing = None
        if published:
            self._metrics.snapshots_stored.inc()
            self._metrics.snapshot_bytes.set(self.store.stored_bytes)
        elif error is not None:
            self._failed(writer.marked, error)
        self._go_on()

    def _failed(self, mark: MarkedSnapshot, error: BaseException) -> None:
        """A full disk, or a state that was replaced, costs the snapshot; its pages go with the next sweep."""
        if self._closed:
            return
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        if full or isinstance(error, DiskFullError | TurnedAwayError):
            self._sweep_due = True
            self._give_up(mark, str(error))
        else:
            words = f"writing a workspace snapshot failed: {error}"
            self._on_fatal(DiskFailedError(words) if isinstance(error, OSError) else error)

    def _give_up(self, mark: MarkedSnapshot, why: str) -> None:
        fields = {"workspace": mark.workspace_id.hex(), "log_index": mark.log_index, "why": why}
        log.warning("a workspace snapshot is not stored on this node", extra={"fields": fields})

    # -- fetching (snapshot_fetch.py) ---------------------------------------------------------------

    def is_making(self, workspace_id: bytes) -> bool:
        """Whether one of this workspace is being written here, or waits for it."""
        writing = self._writing is not None and self._writing.marked.workspace_id == workspace_id
        return writing or workspace_id in self._waiting

    def fetch_begins(self) -> None:
        """Until `fetch_ended` no page is swept away. A sweep under way ends before the next job of the runner."""
        self._fetching = True

    def fetch_ended(self, published: bool) -> None:
        self._fetching = False
        if published:
            self._metrics.snapshot_bytes.set(self.store.stored_bytes)
        else:
            self._sweep_due = True  # pages of one that did not come to its end

    # -- letting go -------------------------------------------------------------------------------

    def look(self) -> None:
        now_s = self._turns.time()
        if now_s < self._look_due_s or self._busy or self._closed:
            return
        self._look_due_s = now_s + LOOK_S
        gone = self._next_dropped()
        if gone:
            self._submit(lambda: self._drop(gone), self._dropped)
            return
        if self._has_room():
            self._make_again()
        self._go_on()

    def _next_dropped(self) -> list[tuple[bytes, int]]:
        """Of the next few that are held: three days of a dozen workspaces are ten thousand."""
        held = self.store.held()
        start = bisect_right(held, self._held_after)
        looked_at = held[start : start + HELD_A_LOOK]
        self._held_after = looked_at[-1] if len(looked_at) == HELD_A_LOOK else _FIRST
        return [found for found in looked_at if self._is_dropped(*found)]

    def _make_again(self) -> None:
        """What this node lacks of newest snapshots, as it was stopped while it wrote one, and can still make: as long
        as nothing has changed, the tree is that of the mark."""
        pairs = list(islice(queries.scan_workspaces(self._reader, self._after), WORKSPACES_A_LOOK))
        self._after = pairs[-1][0] if len(pairs) == WORKSPACES_A_LOOK else b""
        lacking: list[MarkedSnapshot] = []
        for _, workspace_id in pairs:
            newest = newest_snapshot(self._reader, workspace_id)
            if newest is None or self.store.find(workspace_id, newest.log_index) is not None:
                continue
            header = queries.read_header(self._reader, workspace_id)
            current = header is not None and header.log_index == newest.log_index
            if header is not None and current and not self.is_making(workspace_id):
                lacking.append(MarkedSnapshot(workspace_id, header.log_index, header.root))
        if lacking:
            self.marked(lacking)

    def _is_dropped(self, workspace_id: bytes, log_index: int) -> bool:
        manifest = self.store.find(workspace_id, log_index)
        if manifest is not None and manifest.history_id != self._history_id:
            return True
        header = queries.read_header(self._reader, workspace_id)
        # Before the state is past it, its mark may be an entry that is still to be replayed.
        if header is None or header.log_index <= log_index:
            return False
        return read_snapshot(self._reader, workspace_id, log_index) is None

    def _drop(self, gone: Sequence[tuple[bytes, int]]) -> None:
        for workspace_id, log_index in gone:
            self.store.drop(workspace_id, log_index)

    def _dropped(self, error: BaseException | None) -> None:
        self._sweep_due = True
        if error is not None:
            self._on_fatal(DiskFailedError(f"dropping a workspace snapshot failed: {error}"))
        self._look_due_s = 0.0
        self._go_on()

    def _sweep(self) -> None:
        freed_bytes = self.store.sweep()
        if freed_bytes:
            log.info("pages of dropped snapshots are gone", extra={"fields": {"bytes": freed_bytes}})

    def _swept(self, error: BaseException | None) -> None:
        if isinstance(error, DamagedError):
            log.error("pages of dropped snapshots are kept", extra={"fields": {"why": str(error)}})
        elif error is not None and not isinstance(error, DiskFullError):
            self._on_fatal(error)
        self._metrics.snapshot_bytes.set(self.store.stored_bytes)
        self._go_on()

    def close(self) -> None:
        """Lets go of the state; what was being written is swept at the next start."""
        self._closed = True
        for writer in (*self._waiting.values(), *([self._writing] if self._writing is not None else ())):
            writer.end()
        self._waiting.clear()
