"""Finds the chunks of every workspace that nothing reaches, and proposes that they go (WS-54).

Owns: a cursor over the chunk records of all workspaces, and how fast it moves.
Never: decides: apply judges each chunk again by the same rule, as of its own entry.
Invariants: at most COLLECT_CHUNKS_MAX chunks a command and one command in flight; a look reads a bounded number of
records, so that the loop is never held up; a round that found nothing is followed by a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hypercluster import limits
from hypercluster.node.own_lane import OwnLane, was_judged
from hypercluster.node.standing import Standing
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import MaintenanceCommand
from hypercluster.pb.v1.retention_command_pb2 import ChunkCollect
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.chunks import present_chunks
from hypercluster.state_machine.workspace.retention import Keep
from hypercluster.telemetry.metrics import Metrics

LOOK_S: Final = 0.25
EXAMINED_A_LOOK: Final = 1_000
ROUND_S: Final = 60.0  # between two rounds over all chunks


@dataclass(slots=True)
class Progress:
    """Of the round under way and of the last whole one, for people."""

    rounds: int = 0
    examined: int = 0
    candidates: int = 0
    last_examined: int = 0
    last_candidates: int = 0


class Collection:
    """`look` is called now and then by the lifecycle."""

    def __init__(
        self,
        lane: OwnLane,
        standing: Standing,
        reader: Reader,
        clock: Clock,
        metrics: Metrics,
        chunks_per_s: int = limits.COLLECT_CHUNKS_PER_S,
    ) -> None:
        self._lane = lane
        self._standing = standing
        self._reader = reader
        self._clock = clock
        self._metrics = metrics
        self._chunks_per_s = chunks_per_s
        self._due_s = 0.0
        self._place = b""  # of the present workspace among all
        self._workspace_id = b""  # empty: the round begins
        self._after = b""  # hash of the chunk looked at last
        self._pending: list[bytes] = []  # candidates of the present workspace
        self.progress = Progress()

    def look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._due_s or not self._standing.leads() or not self._lane.idle:
            return
        self._due_s = now_s + LOOK_S
        if not self._workspace_id and not self._next_workspace():
            self._end_round(now_s)
            return
        finished = self._examine()
        if self._pending and (finished or len(self._pending) >= limits.COLLECT_CHUNKS_MAX):
            self._propose(now_s)
        if finished and not self._pending:
            self._workspace_id = b""

    def _next_workspace(self) -> bool:
        found = next(queries.scan_workspaces(self._reader, self._place), None)
        if found is None:
            return False
        self._place, self._workspace_id = found
        self._after = b""
        return True

    def _end_round(self, now_s: float) -> None:
        progress = self.progress
        progress.rounds += 1
        progress.last_examined, progress.last_candidates = progress.examined, progress.candidates
        progress.examined = progress.candidates = 0
        self._metrics.gc_candidates.set(progress.last_candidates)
        self._place = b""
        self._due_s = now_s + ROUND_S

    def _examine(self) -> bool:
        """The next records of the workspace; True at its end."""
        header = queries.read_header(self._reader, self._workspace_id)
        if header is None:
            return True
        keep: Keep | None = None
        examined = 0
        room = limits.COLLECT_CHUNKS_MAX - len(self._pending)
        scan = present_chunks(self._reader, self._workspace_id, self._after)
        for chunk_hash, presence in islice(scan, EXAMINED_A_LOOK):
            if not room:
                break
            examined += 1
            self._after = chunk_hash
            if presence.references:
                continue
            keep = keep or Keep(self._reader, header, self._clock.wall_ns())
            if not keep.reaches(chunk_hash, presence):
                self._pending.append(chunk_hash)
                room -= 1
        self.progress.examined += examined
        self._metrics.gc_examined.inc(examined)
        return examined < EXAMINED_A_LOOK and room > 0

    def _propose(self, now_s: float) -> None:
        hashes, self._pending = self._pending, []
        self.progress.candidates += len(hashes)
        self._due_s = now_s + max(LOOK_S, len(hashes) / self._chunks_per_s)
        collect = ChunkCollect(workspace_id=self._workspace_id, hashes=hashes)
        self._lane.propose([MaintenanceCommand(chunk_collect=collect)], self._answered)

    def _answered(self, verdicts: Sequence[Verdict]) -> None:
        """What was not judged, or was found to be needed after all, is met again in the next round."""
        if not was_judged(verdicts):
            self._workspace_id, self._place = b"", b""
