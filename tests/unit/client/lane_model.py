"""A deliberately simple cluster for lanes, written from D-7, and a network that drops, delays and repeats.

Owns: the second model of D-7 that the lane's property tests run against. Shares no code with the state machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_command_pb2 as coordination_pb

Result = tuple[int, int]  # (reason, Raft index)


@dataclass
class ModelLane:
    last: int = 0
    results: dict[int, tuple[bytes, Result]] = field(default_factory=dict)
    burned: set[int] = field(default_factory=set)


@dataclass
class ModelCluster:
    """Judges one command at a time, in the order they reach it."""

    dedupe: bool = True
    lanes: dict[bytes, ModelLane] = field(default_factory=dict)
    applied: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    index: int = 0

    def judge(self, client_id: bytes, seq: int, floor: int, command: bytes) -> Result:
        self.index += 1
        lane = self.lanes.get(client_id)
        if lane is None:
            lane = self.lanes[client_id] = ModelLane(last=seq - 1)
        lane.results = {s: r for s, r in lane.results.items() if s > floor}
        if seq in lane.burned:
            return command_pb.REASON_ABANDONED, self.index
        if seq <= lane.last and self.dedupe:
            if seq not in lane.results:
                return command_pb.REASON_UNKNOWN, self.index
            stored, result = lane.results[seq]
            return result if stored == command else (command_pb.REASON_IDEMPOTENCY_CONFLICT, self.index)
        if seq > lane.last + 1:
            return command_pb.REASON_SEQ_GAP, self.index
        abandon = abandon_in(command)
        if abandon is not None:
            given_up = self.lanes.setdefault(abandon.client_id, ModelLane())
            given_up.burned |= set(range(given_up.last + 1, abandon.through_seq + 1))
            given_up.last = max(given_up.last, abandon.through_seq)
        refused = command.endswith(b"!") and abandon is None
        result = (command_pb.REASON_PRECONDITION_FAILED if refused else command_pb.REASON_OK, self.index)
        lane.last = max(lane.last, seq)
        lane.results[seq] = (command, result)
        assert len(lane.results) <= 1024
        if not refused and abandon is None:
            self.applied.append((client_id, seq, command))
        return result


def abandon_in(command: bytes) -> coordination_pb.Abandon | None:
    """The commands of these tests are no messages, but for this one."""
    try:
        found = command_pb.Command.FromString(command)
    except DecodeError:
        return None
    return found.abandon if found.HasField("abandon") else None


TURN_AWAYS = (
    command_pb.REASON_NOT_LEADER,
    command_pb.REASON_NO_QUORUM,
    command_pb.REASON_QUEUE_FULL,
    command_pb.REASON_RATE_LIMITED,
    command_pb.REASON_SHUTTING_DOWN,
)


class ModelServer:
    """The node at the other end of one stream. Old streams' messages may reach the cluster long after they broke."""

    def __init__(self, cluster: ModelCluster, rng: random.Random, fault_rate: float) -> None:
        self.cluster = cluster
        self.rng = rng
        self.fault_rate = fault_rate
        self.stragglers: list[bytes] = []

    def receive(self, payload: bytes) -> list[command_pb.Acks] | None:
        """Acknowledgements in order, or None if the stream breaks (applied, lost or delayed: nobody knows)."""
        if self.rng.random() < self.fault_rate:
            match self.rng.randrange(4):
                case 0:
                    return None
                case 1:
                    self.judge(payload)
                    return None
                case 2:
                    self.stragglers.append(payload)
                    return None
                case _:
                    return self.turn_away(payload)
        if self.stragglers and self.rng.random() < 0.3:
            self.judge(self.stragglers.pop(self.rng.randrange(len(self.stragglers))))
        return self.judge(payload)

    def turn_away(self, payload: bytes) -> list[command_pb.Acks]:
        submit = command_pb.Submit.FromString(payload)
        reason = self.rng.choice(TURN_AWAYS)
        count = len(submit.commands)
        return [
            command_pb.Acks(
                client_id=submit.client_id,
                first_seq=submit.first_seq,
                count=count,
                reason=[reason] * count,
                retry_after_ms=self.rng.randrange(30),
            )
        ]

    def judge(self, payload: bytes) -> list[command_pb.Acks]:
        submit = command_pb.Submit.FromString(payload)
        out = []
        for i, command in enumerate(submit.commands):
            seq = submit.first_seq + i
            if command == b"malformed" and len(submit.commands):
                count = len(submit.commands)
                reasons = [command_pb.REASON_MALFORMED] * count
                return [
                    command_pb.Acks(client_id=submit.client_id, first_seq=submit.first_seq, count=count, reason=reasons)
                ]
        for i, command in enumerate(submit.commands):
            seq = submit.first_seq + i
            reason, index = self.cluster.judge(submit.client_id, seq, submit.floor, command)
            out.append(
                command_pb.Acks(
                    client_id=submit.client_id, first_seq=seq, count=1, raft_index=index, reason=[reason], version=[seq]
                )
            )
        return out
