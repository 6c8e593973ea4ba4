"""The words of a client lane: its settings, the instructions it gives and the table of answers.

Owns: `LaneSettings`, the instructions (`Send`, `Settled`, `Redirect`, `SlowDown`, `NeedChunks`), the
`Journal` hook and `ANSWERS`, the table from a Reason on the wire to what a lane does about it.
Never: I/O, clocks, randomness.
Invariant: a Reason that is not in the table (a newer server's) is treated as ambiguous, never as definite (D-8).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hypercluster.limits import LANE_MESSAGE_BYTES, LANE_RESULTS_MAX, SUBMIT_COMMANDS_MAX
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import origin_pb2 as origin_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb

MS_NS = 1_000_000
S_NS = 1_000_000_000


class Verdict(Enum):
    """How a command ended (D-8). REFUSED is judged and final; NOT_DONE was never judged and never will be."""

    OK = "ok"
    REFUSED = "refused"
    NOT_DONE = "not_done"
    UNKNOWN = "unknown"


class Answer(Enum):
    """What a lane does about a Reason."""

    OK = "ok"
    REFUSED = "refused"  # judged, stored, final for the key
    KEY_BROKEN = "key_broken"  # final, and the lane can not be used any more
    GAP = "gap"  # not yet: an earlier seq is missing
    CHUNKS = "chunks"  # not yet: content is missing
    AGAIN = "again"  # turned away or not yet: the same key may be sent again
    NO_LEADER = "no_leader"  # turned away because this node can not lead
    PERMANENT = "permanent"  # turned away, and sending it again would change nothing
    AMBIGUOUS = "ambiguous"  # may have been applied: the same key must be sent again


ANSWERS: dict[int, Answer] = {
    command_pb.REASON_OK: Answer.OK,
    command_pb.REASON_PRECONDITION_FAILED: Answer.REFUSED,
    command_pb.REASON_ERRNO: Answer.REFUSED,
    command_pb.REASON_UNKNOWN_NAMESPACE: Answer.REFUSED,
    command_pb.REASON_BAD_OP_TYPE: Answer.REFUSED,
    command_pb.REASON_FENCED: Answer.REFUSED,
    command_pb.REASON_NO_WORKSPACE: Answer.REFUSED,
    command_pb.REASON_EXISTS: Answer.REFUSED,
    command_pb.REASON_LIMIT: Answer.REFUSED,
    command_pb.REASON_INTERNAL: Answer.REFUSED,
    command_pb.REASON_LOCK_HELD_EXPIRING: Answer.REFUSED,
    command_pb.REASON_ABANDONED: Answer.REFUSED,
    command_pb.REASON_CHAIN_GAP: Answer.REFUSED,
    command_pb.REASON_NOT_GENESIS: Answer.REFUSED,
    command_pb.REASON_DUPLICATE_GENESIS: Answer.REFUSED,
    command_pb.REASON_PREV_MISMATCH: Answer.REFUSED,
    command_pb.REASON_FORKED: Answer.REFUSED,
    command_pb.REASON_FROZEN: Answer.REFUSED,
    command_pb.REASON_UNKNOWN_AUTHOR: Answer.REFUSED,
    command_pb.REASON_NO_SESSION: Answer.REFUSED,
    command_pb.REASON_SESSION_OWNED: Answer.REFUSED,
    command_pb.REASON_SESSION_BUSY: Answer.REFUSED,
    command_pb.REASON_REQUEST_LIMIT: Answer.REFUSED,
    command_pb.REASON_HOLDER_ALIVE: Answer.AGAIN,
    command_pb.REASON_IDEMPOTENCY_CONFLICT: Answer.KEY_BROKEN,
    command_pb.REASON_UNKNOWN: Answer.KEY_BROKEN,
    command_pb.REASON_FORBIDDEN: Answer.KEY_BROKEN,
    command_pb.REASON_SEQ_GAP: Answer.GAP,
    command_pb.REASON_CHUNKS_MISSING: Answer.CHUNKS,
    command_pb.REASON_SCHEMA_CHANGED: Answer.AGAIN,
    command_pb.REASON_MALFORMED: Answer.PERMANENT,
    command_pb.REASON_TOO_LARGE: Answer.PERMANENT,
    command_pb.REASON_UNAUTHENTICATED: Answer.PERMANENT,
    command_pb.REASON_NOT_LEADER: Answer.NO_LEADER,
    command_pb.REASON_NO_QUORUM: Answer.NO_LEADER,
    command_pb.REASON_QUEUE_FULL: Answer.AGAIN,
    command_pb.REASON_RATE_LIMITED: Answer.AGAIN,
    command_pb.REASON_DISK_FULL: Answer.AGAIN,
    command_pb.REASON_WRONG_CLUSTER: Answer.PERMANENT,
    command_pb.REASON_INVALID_SIGNATURE: Answer.PERMANENT,
    command_pb.REASON_DEPS_TOO_LONG: Answer.PERMANENT,
    command_pb.REASON_SCHEMA: Answer.PERMANENT,
    command_pb.REASON_RESET_REQUIRED: Answer.PERMANENT,
    command_pb.REASON_SNAPSHOT_REQUIRED: Answer.PERMANENT,
    command_pb.REASON_WRONG_WORKSPACE: Answer.PERMANENT,
    command_pb.REASON_HISTORY_CHANGED: Answer.PERMANENT,
    command_pb.REASON_SHUTTING_DOWN: Answer.NO_LEADER,
    command_pb.REASON_OUTCOME_UNKNOWN: Answer.AMBIGUOUS,
}


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Bounds of one lane. Times in nanoseconds."""

    window: int = LANE_RESULTS_MAX  # commands that wait for an answer, sent or not (D-7)
    messages_in_flight: int = 4  # beyond it, commands gather until `gather_commands` are ready
    gather_commands: int = 64
    batch_commands: int = SUBMIT_COMMANDS_MAX
    batch_bytes: int = LANE_MESSAGE_BYTES
    no_leader_ns: int = 5 * S_NS  # WS-3: how long a command that was never accepted waits for a leader
    deadline_ns: int = 30 * S_NS  # WS-3: how long a command that was sent is sent again
    backoff_min_ns: int = 10 * MS_NS
    backoff_max_ns: int = 500 * MS_NS


@dataclass(frozen=True, slots=True)
class Intent:
    """The whole key of one command: sent again with it and the same bytes, the command is applied at most once, and
    answers as it did the first time (D-7, WS-12). The basis is the one it was first sent with."""

    client_id: bytes
    seq: int
    basis: int

    def token(self) -> str:
        return f"{self.client_id.hex()}:{self.seq}:{self.basis}"

    @staticmethod
    def parse(token: str) -> Intent:
        """Raises ValueError."""
        client_id, seq, basis = token.split(":")
        intent = Intent(bytes.fromhex(client_id), int(seq), int(basis))
        if len(intent.client_id) != 16 or intent.seq < 1 or intent.basis < 0:
            raise ValueError("out of range")
        return intent


@dataclass(frozen=True, slots=True)
class Send:
    """Put `payload`, a serialized Submit, on the open stream."""

    payload: bytes
    first_seq: int
    count: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The command behind `ticket` has ended. Given exactly once a ticket."""

    ticket: int
    verdict: Verdict
    reason: int  # hypercluster.v1.Reason
    message: str = ""
    raft_index: int = 0
    version: int = 0
    file: file_pb.FileAck | None = None
    intent: Intent | None = None  # of an unknown outcome


@dataclass(frozen=True, slots=True)
class Redirect:
    """This node does not lead. `leader_hint` is a client address or ''."""

    leader_hint: str


@dataclass(frozen=True, slots=True)
class SlowDown:
    """The rate limit was met: send nothing of any lane for so long."""

    retry_after_ns: int


@dataclass(frozen=True, slots=True)
class NeedChunks:
    """The lane stands until `Lane.chunks_sent(ticket)` or `Lane.give_up(ticket)`."""

    ticket: int
    missing: tuple[bytes, ...]


Instruction = Send | Settled | Redirect | SlowDown | NeedChunks


@dataclass(slots=True)
class Entry:
    """One command that has not been settled, or was settled before an earlier one. Ticket 0: the lane's own."""

    ticket: int
    seq: int
    command: bytes
    workspace_id: bytes
    origin: origin_pb.Origin | None
    invoked_ns: int
    basis: int = -1  # set when first sent, and kept
    message: int = 0  # the unanswered message that holds it, 0 for none
    run_length: int = 0  # commands in the message it was last sent in
    tainted: bool = False  # a copy of it went unanswered: it may have been applied
    done: bool = False
    refusal: int = 0  # Reason of the last answer that settled nothing
    refusal_words: str = ""
    waits_for_chunks: bool = False
    given_up: bool = False


class Journal(Protocol):
    """What checkers read: one line an event, kinds as in CH-5 (invoke, ok, fail, info)."""

    def record(
        self, kind: str, at_ns: int, client_id: bytes, seq: int, command: bytes, settled: Settled | None
    ) -> None:
        """`command` is the serialized Command; `settled` is None for an invoke."""


def reason_name(reason: int) -> str:
    """The stable code of a Reason, without its prefix; a number nobody knows keeps its digits."""
    found = command_pb.Reason.DESCRIPTOR.values_by_number.get(reason)
    return found.name.removeprefix("REASON_") if found is not None else f"REASON_{reason}"
