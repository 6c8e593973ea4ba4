"""Keeps the commands of one client in order on their way to the log (WS-12).

Owns: which runs of a lane are under way, and the runs held back because one before them is missing.
Never: judges. Apply does that; the gate only spares it gaps that close by themselves within a second.
Invariants: nothing is reordered; a run passes at once unless an earlier seq of its lane is known to be missing;
what is held is bounded per client and in all, and in time; a held run leaves exactly once.
Time is passed in, and `next_deadline` says when `expired` has work, so that a test can run it under any clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hypercluster.limits import SEQ_HOLD_BYTES_MAX, SEQ_HOLD_MS, SEQ_HOLD_OPS_MAX, SEQ_HOLD_TOTAL_BYTES_MAX

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _HeldRun(Generic[T]):
    first_seq: int
    count: int
    size_bytes: int
    item: T
    deadline_s: float


@dataclass(slots=True)
class _Lane(Generic[T]):
    next_seq: int  # one above the highest seq that passed
    last: T  # the run that arrived last: whose lane it is, and for looking into what is under way
    under_way: int = 0  # runs that passed and are not finished
    held: dict[int, _HeldRun[T]] = field(default_factory=dict)  # by first_seq
    held_ops: int = 0
    held_bytes: int = 0


class LaneGate(Generic[T]):
    """Of one leader. A new term starts with a new gate."""

    __slots__ = ("_deadlines", "_held_bytes", "_lanes")

    def __init__(self) -> None:
        self._lanes: dict[bytes, _Lane[T]] = {}
        self._deadlines: deque[tuple[float, bytes, int]] = deque()  # when, client, first_seq; in time order
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def arrive(
        self, client_id: bytes, first_seq: int, count: int, size_bytes: int, judged: int | None, item: T, now_s: float
    ) -> list[T] | None:
        """Runs that may go on now, in order: none if `item` is held back. None: no room to hold it (SEQ_GAP).

        `judged` is the last seq that apply has judged of this lane, None for an unknown client, whose lane starts
        wherever it says (D-7)."""
        lane = self._lanes.get(client_id)
        if lane is None:
            if judged is not None and first_seq > judged + 1:
                lane = _Lane(judged + 1, item)
                if not self._fits(lane, count, size_bytes):
                    return None
                self._lanes[client_id] = lane
                self._hold(client_id, lane, _HeldRun(first_seq, count, size_bytes, item, now_s + SEQ_HOLD_MS / 1000))
                return []
            self._lanes[client_id] = _Lane(first_seq + count, item, under_way=1)
            return [item]
        lane.last = item
        if judged is not None and judged >= lane.next_seq:
            lane.next_seq = judged + 1  # others of this lane went through another leader
        if first_seq > lane.next_seq:
            if first_seq in lane.held or not self._fits(lane, count, size_bytes):
                return None
            self._hold(client_id, lane, _HeldRun(first_seq, count, size_bytes, item, now_s + SEQ_HOLD_MS / 1000))
            return []
        lane.next_seq = max(lane.next_seq, first_seq + count)
        lane.under_way += 1
        return [item, *self._release(lane)] if lane.held else [item]

    def _fits(self, lane: _Lane[T], count: int, size_bytes: int) -> bool:
        return (
            lane.held_ops + count <= SEQ_HOLD_OPS_MAX
            and lane.held_bytes + size_bytes <= SEQ_HOLD_BYTES_MAX
            and self._held_bytes + size_bytes <= SEQ_HOLD_TOTAL_BYTES_MAX
        )

    def _hold(self, client_id: bytes, lane: _Lane[T], run: _HeldRun[T]) -> None:
        lane.held[run.first_seq] = run
        lane.held_ops += run.count
        lane.held_bytes += run.size_bytes
        self._held_bytes += run.size_bytes
        self._deadlines.append((run.deadline_s, client_id, run.first_seq))

    def _release(self, lane: _Lane[T]) -> list[T]:
        free: list[T] = []
        for first_seq in sorted(lane.held):
            if first_seq > lane.next_seq:
                break
            run = self._take(lane, first_seq)
            lane.next_seq = max(lane.next_seq, first_seq + run.count)
            lane.under_way += 1
            free.append(run.item)
        return free

    def _take(self, lane: _Lane[T], first_seq: int) -> _HeldRun[T]:
        run = lane.held.pop(first_seq)
        lane.held_ops -= run.count
        lane.held_bytes -= run.size_bytes
        self._held_bytes -= run.size_bytes
        return run

    def finished(self, client_id: bytes) -> None:
        """One run that passed has been answered."""
        lane = self._lanes[client_id]
        lane.under_way -= 1
        if lane.under_way == 0 and not lane.held:
            del self._lanes[client_id]

    def waiting(self, client_id: bytes, seq: int) -> T | None:
        """The run that arrived last of a lane in which `seq`, if it is not judged, is under way or held; None: neither
        is. A seq below those of a lane that began here later is taken to be under way as well, until it has ended."""
        lane = self._lanes.get(client_id)
        if lane is None:
            return None
        held = any(run.first_seq <= seq < run.first_seq + run.count for run in lane.held.values())
        return lane.last if held or (lane.under_way and seq < lane.next_seq) else None

    def next_deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now_s: float) -> list[T]:
        """Held runs whose time is up: SEQ_GAP. The client sends again from its first unanswered seq."""
        late: list[T] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            deadline_s, client_id, first_seq = self._deadlines.popleft()
            lane = self._lanes.get(client_id)
            run = lane.held.get(first_seq) if lane is not None else None
            if lane is None or run is None or run.deadline_s != deadline_s:
                continue  # it was released in time; another run of that seq, held now, has an entry of its own
            late.append(self._take(lane, first_seq).item)
            if lane.under_way == 0 and not lane.held:
                del self._lanes[client_id]
        return late

    def abandon(self) -> list[T]:
        """Everything held, in order of arrival; nothing is held afterwards. For a stop or a loss of leadership."""
        return self.expired(float("inf"))
