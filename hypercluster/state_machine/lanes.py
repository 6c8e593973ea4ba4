"""Client lanes: what makes a command happen once (D-7).

Owns: Family.LANES. Four kinds of record:
    "B" client_id -> principal, org, project: to whom the lane belongs, fixed at first use
    "H" client_id -> last judged seq, floor, index of the last judgement, hour of the last sign of life
    "R" client_id first_seq -> the results of one run (results.py)
    "T" hour client_id -> "": finds the lanes that have been silent longest
"hour" is the stamp without its low HOUR_SHIFT bits, so that a busy lane moves its "T" record every 37 minutes only.
Invariants: a lane in the cache equals what its records say; results are found for every seq above both the floor
and last - LANE_RESULTS_MAX, and for no other, whatever is still stored; apart from a lane's own group nothing but
`forget` and `burn` changes it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import deque
from typing import Final

from hypercluster.limits import LANE_RESULTS_MAX
from hypercluster.state_machine.keys import escaped, number, prefix_end, read_escaped, read_number
from hypercluster.state_machine.meta import DEDUPE_FLOOR, LANE_COUNT, counter_change, read_counter
from hypercluster.state_machine.results import StoredRun, decode_run, encode_burned, run_count
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.values import ClientId, Index, Nanos, Scope

HOUR_SHIFT: Final = 41
CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
# One command touches at most 1 000 keys (D-4); what is left over goes with the lane's next group.
RUNS_REMOVED_MAX: Final = 900

_BINDING, _HEAD_KIND, _RUN, _SILENT = b"B", b"H", b"R", b"T"
_HEAD = struct.Struct(">QQQI")
_HOUR = struct.Struct(">I")
_LANE_BYTES, _RUN_BYTES = 800, 200  # what the objects themselves take in memory, roughly


class Lane:
    """One client's lane while it is in memory."""

    __slots__ = (
        "client_id",
        "floor",
        "hour",
        "last_index",
        "last_seq",
        "principal",
        "runs",
        "scope",
        "stored",
        "weight",
    )

    def __init__(self, client_id: ClientId, principal: str, scope: Scope, last_seq: int) -> None:
        self.client_id = client_id
        self.principal = principal
        self.scope = scope
        self.last_seq = last_seq
        self.floor = last_seq
        self.last_index = Index(0)
        self.hour = 0
        self.stored = b""  # the head record as the store has it, b"" for a lane that is not stored
        self.runs: deque[tuple[int, int, bytes]] = deque()  # first seq, count, record
        self.weight = _LANE_BYTES

    def horizon(self) -> int:
        """Results exist above this seq only."""
        return max(self.floor, self.last_seq - LANE_RESULTS_MAX)

    def find(self, seq: int) -> StoredRun | None:
        """The run that holds the results of `seq`, or None when they are no longer kept."""
        if not self.horizon() < seq <= self.last_seq:
            return None
        position = bisect_right(self.runs, seq, key=_first_seq) - 1
        if position < 0:
            return None
        first_seq, count, record = self.runs[position]
        return decode_run(first_seq, record) if seq < first_seq + count else None


class Lanes:
    """All lanes over `reader`, the state before the present entry. A lane used in an entry stays in memory until the
    entry ends, so what is loaded was not written in it."""

    def __init__(self, reader: Reader, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._reader = reader
        self._cache_bytes_max = cache_bytes_max
        self._lanes: dict[bytes, Lane] = {}
        self._cached_bytes = 0
        self._forgotten: set[bytes] = set()  # in the present entry: the reader still shows them
        self._changes: list[Change] = []
        self._dedupe_floor = self._stored_floor = read_counter(reader, DEDUPE_FLOOR)
        self._count = self._stored_count = read_counter(reader, LANE_COUNT)

    @property
    def dedupe_floor(self) -> int:
        return self._dedupe_floor

    def get(self, client_id: ClientId) -> Lane | None:
        lane = self._lanes.get(client_id)
        if lane is None:
            lane = self._load(client_id)
            if lane is None:
                return None
            self._cached_bytes += lane.weight
        else:
            del self._lanes[client_id]  # to the end: the cache drops from the front
        self._lanes[client_id] = lane
        return lane

    def start(self, client_id: ClientId, principal: str, scope: Scope, first_seq: int) -> Lane:
        """A lane that begins at `first_seq`. It is stored when something is."""
        return Lane(client_id, principal, scope, first_seq - 1)

    def note(self, lane: Lane, stamp_ns: int, floor: int) -> None:
        """A sign of life, and the floor that came with it; a floor above what was judged means nothing."""
        lane.floor = max(lane.floor, min(floor, lane.last_seq))
        hour = stamp_ns >> HOUR_SHIFT
        if hour != lane.hour:
            if lane.stored:
                self._changes.append(Change(Family.LANES, _silent_key(lane.hour, lane.client_id), None))
                self._changes.append(Change(Family.LANES, _silent_key(hour, lane.client_id), b""))
            lane.hour = hour

    def add_run(self, lane: Lane, first_seq: int, count: int, index: Index, record: bytes) -> None:
        """Stores the results of the lane's next `count` commands."""
        if not lane.stored and lane.client_id not in self._lanes:
            self._begin(lane)
        lane.last_seq = first_seq + count - 1
        lane.last_index = index
        lane.runs.append((first_seq, count, record))
        weight = len(record) + _RUN_BYTES
        lane.weight += weight
        self._cached_bytes += weight
        self._changes.append(Change(Family.LANES, _run_key(lane.client_id, first_seq), record))

    def burn(self, lane: Lane, through_seq: int, index: Index) -> None:
        """Every seq of the lane that was not judged, up to and including `through_seq`, never will be (WS-4)."""
        first_seq, count = lane.last_seq + 1, through_seq - lane.last_seq
        self.add_run(lane, first_seq, count, index, encode_burned(index, count))
        self.save(lane)

    def save(self, lane: Lane) -> None:
        """After each group: drops results nobody may ask for, and writes the head if it is another."""
        if lane.client_id not in self._lanes:
            return
        self._drop_runs(lane, lane.horizon())
        head = _HEAD.pack(lane.last_seq, lane.floor, lane.last_index, lane.hour)
        if head != lane.stored:
            self._changes.append(Change(Family.LANES, _HEAD_KIND + lane.client_id, head))
            lane.stored = head

    def forget(self, client_id: ClientId, last_seq: int) -> tuple[bool, bool]:
        """(whether the lane was as expected, whether it is gone). Raises the dedupe floor to its last judgement.

        A lane with more results than one command may remove loses the oldest of them, and stays."""
        lane = self.get(client_id)
        if lane is None or lane.last_seq != last_seq:
            return False, lane is None
        self._dedupe_floor = max(self._dedupe_floor, lane.last_index)
        if len(lane.runs) > RUNS_REMOVED_MAX:
            first_seq, count, _ = lane.runs[RUNS_REMOVED_MAX - 1]
            lane.floor = max(lane.floor, first_seq + count - 1)
            self.save(lane)
            return True, False
        self._drop_runs(lane, lane.last_seq)
        for key in (_HEAD_KIND + client_id, _BINDING + client_id, _silent_key(lane.hour, client_id)):
            self._changes.append(Change(Family.LANES, key, None))
        del self._lanes[client_id]
        self._cached_bytes -= lane.weight
        self._forgotten.add(client_id)
        self._count -= 1
        return True, True

    def take(self) -> list[Change]:
        """The changes since the last call; bounds the cache. Once per entry."""
        changes, self._changes = self._changes, []
        if self._dedupe_floor != self._stored_floor:
            changes.append(counter_change(DEDUPE_FLOOR, self._dedupe_floor))
            self._stored_floor = self._dedupe_floor
        if self._count != self._stored_count:
            changes.append(counter_change(LANE_COUNT, self._count))
            self._stored_count = self._count
        self._forgotten.clear()
        while self._cached_bytes > self._cache_bytes_max:
            oldest = next(iter(self._lanes))
            self._cached_bytes -= self._lanes.pop(oldest).weight
        return changes

    def _begin(self, lane: Lane) -> None:
        scope = lane.scope
        binding = b"".join([escaped(text.encode()) for text in (lane.principal, scope.org, scope.project)])
        self._changes.append(Change(Family.LANES, _BINDING + lane.client_id, binding))
        self._changes.append(Change(Family.LANES, _silent_key(lane.hour, lane.client_id), b""))
        self._lanes[lane.client_id] = lane
        self._cached_bytes += lane.weight
        self._count += 1

    def _drop_runs(self, lane: Lane, horizon: int) -> None:
        runs = lane.runs
        for _ in range(RUNS_REMOVED_MAX):
            if not runs or runs[0][0] + runs[0][1] - 1 > horizon:
                break
            first_seq, _, record = runs.popleft()
            weight = len(record) + _RUN_BYTES
            lane.weight -= weight
            self._cached_bytes -= weight
            self._changes.append(Change(Family.LANES, _run_key(lane.client_id, first_seq), None))

    def _load(self, client_id: ClientId) -> Lane | None:
        if client_id in self._forgotten:
            return None
        return read_lane(self._reader, client_id)


def read_lane(reader: Reader, client_id: ClientId) -> Lane | None:
    """A lane as its records say."""
    head = reader.get(Family.LANES, _HEAD_KIND + client_id)
    binding = reader.get(Family.LANES, _BINDING + client_id)
    if head is None or binding is None:
        return None
    principal, position = read_escaped(binding, 0)
    org, position = read_escaped(binding, position)
    project, _ = read_escaped(binding, position)
    lane = Lane(client_id, principal.decode(), Scope(org.decode(), project.decode()), 0)
    lane.last_seq, lane.floor, last_index, lane.hour = _HEAD.unpack(head)
    lane.last_index = Index(last_index)
    lane.stored = head
    prefix = _RUN + client_id
    for key, record in reader.scan(Family.LANES, prefix, prefix_end(prefix)):
        first_seq = read_number(key, len(prefix))
        lane.runs.append((first_seq, run_count(record), record))
        lane.weight += len(record) + _RUN_BYTES
    return lane


def oldest_lanes(reader: Reader, before_ns: Nanos, count_max: int) -> list[tuple[ClientId, int]]:
    """(client_id, last seq) of lanes without a sign of life since `before_ns`, the oldest first: what the leader
    proposes to forget (D-7). Coarse by one hour in the lane's favour."""
    found: list[tuple[ClientId, int]] = []
    end = _SILENT + _HOUR.pack(max(0, before_ns) >> HOUR_SHIFT)
    for key, _ in reader.scan(Family.LANES, _SILENT, end):
        if len(found) == count_max:
            break
        client_id = ClientId(key[len(_SILENT) + _HOUR.size :])
        head = reader.get(Family.LANES, _HEAD_KIND + client_id)
        if head is not None:
            found.append((client_id, _HEAD.unpack(head)[0]))
    return found


def _first_seq(run: tuple[int, int, bytes]) -> int:
    return run[0]


def _run_key(client_id: ClientId, first_seq: int) -> bytes:
    return _RUN + client_id + number(first_seq)


def _silent_key(hour: int, client_id: ClientId) -> bytes:
    return _SILENT + _HOUR.pack(hour) + client_id
