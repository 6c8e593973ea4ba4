"""D-7 once more, written from the specification alone and as simply as it can be said.

Nothing is ever dropped here: the model remembers every answer it gave, and works out from the numbers whether the
product may still know it. It judges hub sets without a precondition, which always succeed, and compare-and-sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OK, PRECONDITION_FAILED, LIMIT, CONFLICT, UNKNOWN, FORBIDDEN, ABANDONED, SEQ_GAP = 0, 1, 8, 20, 21, 22, 23, 40
RESULTS_MAX = 1_024

Answer = tuple[int, int, int, int]  # seq, index, reason, version


@dataclass
class LaneModel:
    owner: str
    last: int
    floor: int
    last_index: int = 0
    answers: dict[int, tuple[bytes | None, Answer]] = field(default_factory=dict)  # None: given up, whatever it was


@dataclass
class Model:
    """One scope, one hub namespace."""

    lanes: dict[bytes, LaneModel] = field(default_factory=dict)
    dedupe_floor: int = 0
    server_seq: int = 0
    versions: dict[bytes, int] = field(default_factory=dict)
    judged: list[tuple[bytes, int]] = field(default_factory=list)  # every (client, seq) that took effect or was refused

    def submit(
        self,
        index: int,
        owner: str,
        client: bytes,
        first: int,
        floor: int,
        basis: int,
        commands: list[tuple[bytes, bytes, int]],
    ) -> list[Answer]:
        """Commands are (bytes, key, expected version or -1)."""
        seqs = range(first, first + len(commands))
        lane = self.lanes.get(client)
        if lane is None:
            if basis < self.dedupe_floor:
                return [(seq, index, UNKNOWN, 0) for seq in seqs]
            lane = self.lanes[client] = LaneModel(owner, first - 1, first - 1)
        if lane.owner != owner:
            return [(seq, index, FORBIDDEN, 0) for seq in seqs]
        lane.floor = max(lane.floor, min(floor, lane.last))
        return [self._one(lane, client, index, seq, command) for seq, command in zip(seqs, commands, strict=True)]

    def _one(self, lane: LaneModel, client: bytes, index: int, seq: int, command: tuple[bytes, bytes, int]) -> Answer:
        raw, key, expected = command
        if seq > lane.last + 1:
            return seq, index, SEQ_GAP, 0
        if seq <= lane.last:
            known = lane.answers.get(seq)
            # What counts is the last seq when the run arrived, and nothing of this run was judged before it.
            if known is None or seq <= max(lane.floor, lane.last - RESULTS_MAX):
                return seq, index, UNKNOWN, 0
            return known[1] if known[0] in (raw, None) else (seq, index, CONFLICT, 0)
        present = self.versions.get(key, 0)
        if expected not in (-1, present):
            answer = (seq, index, PRECONDITION_FAILED, present)
        else:
            self.server_seq += 1
            self.versions[key] = self.server_seq
            answer = (seq, index, OK, self.server_seq)
        self.judged.append((client, seq))
        lane.last, lane.last_index = seq, index
        lane.answers[seq] = raw, answer
        return answer

    def forget(self, client: bytes, last: int) -> bool:
        lane = self.lanes.get(client)
        if lane is None or lane.last != last:
            return False
        self.dedupe_floor = max(self.dedupe_floor, lane.last_index)
        del self.lanes[client]
        return True

    def abandon(self, index: int, owner: str, client: bytes, through: int, basis: int) -> tuple[int, int]:
        """WS-4: (reason, the last seq at or below `through` that was judged)."""
        lane = self.lanes.get(client)
        if lane is None:
            if basis < self.dedupe_floor:
                return UNKNOWN, 0
            begin = max(0, through - RESULTS_MAX)
            lane = self.lanes[client] = LaneModel(owner, begin, begin)
        if lane.owner != owner:
            return FORBIDDEN, 0
        if through > lane.last + RESULTS_MAX:
            return LIMIT, 0
        for seq in range(lane.last + 1, through + 1):
            lane.answers[seq] = None, (seq, index, ABANDONED, 0)
            lane.last, lane.last_index = seq, index
        kept = [seq for seq in lane.answers if max(lane.floor, lane.last - RESULTS_MAX) < seq <= through]
        while through in kept and lane.answers[through][0] is None:
            through -= 1
        return OK, through
