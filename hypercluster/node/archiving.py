"""The op log archive of a node, fed by apply and kept in bounds (WS-54).

Owns: the way of trimmed records from apply into the archive, and when its upkeep runs.
Never: holds up apply: the records are held as they are and written beside the loop.
Invariants: a record is held before the store is without it, and the flush that makes it go waits for the archive
(storage/archive); a damaged segment is told and left where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from hypercluster.errors import DamagedError
from hypercluster.node.tree_snapshots import Hold
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.outcome import TrimmedLog
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.oplog import log_key
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.storage.archive.archive import OplogArchive
from hypercluster.storage.runner import Runner
from hypercluster.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

UPKEEP_EVERY_S: Final = 60.0


class Archiving:
    """`trimmed` is called by the apply loop, `look` by the lifecycle."""

    def __init__(
        self,
        archive: OplogArchive,
        hold: Hold,
        runner: Runner,
        clock: Clock,
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.archive = archive
        self._hold = hold
        self._runner = runner
        self._clock = clock
        self._metrics = metrics
        self._on_fatal = on_fatal
        self._due_s = 0.0
        self._early_drops_told = 0
        self._busy = False

    def trimmed(self, trims: Sequence[TrimmedLog]) -> None:
        """While the store still has the records."""
        for workspace_id, first_index, count in trims:
            start = log_key(workspace_id, first_index)
            self.archive.trimmed(workspace_id, count, self._hold(Family.OPLOG, start, prefix_end(start[:-8])))

    def look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._due_s or self._busy:
            return
        self._due_s = now_s + UPKEEP_EVERY_S
        self._busy = True
        now_ns = self._clock.wall_ns()
        self._runner.submit(lambda: self.archive.upkeep(now_ns), self._kept_up)

    def _kept_up(self, error: BaseException | None) -> None:
        self._busy = False
        self._metrics.archive_early_drops.inc(self.archive.early_drops - self._early_drops_told)
        self._early_drops_told = self.archive.early_drops
        self._metrics.archive_bytes.set(self.archive.size_bytes)
        if isinstance(error, DamagedError | OSError):
            log.error("upkeep of the op log archive failed", extra={"fields": {"why": str(error)}})
        elif error is not None:
            self._on_fatal(error)
