"""Every error HyperCluster raises on purpose, as one tree; each says what is known of the outcome (D-8).

Owns: the tree, `Outcome`, and the one wording of the way back after damage. The mapping to gRPC status lives in
rpc/status.py, and a test proves that it names every class here.
Never: text that holds a secret or somebody else's data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

# Every message that ends a node over its own directory names this command, in these words (CL-3, CL-15).
REJOIN: Final = (
    "To re-seed this node, run `hypercluster node rejoin --config node.toml` on its host: it moves the data directory "
    "aside, deletes nothing, and the node comes back as a learner that its peers bring up to date"
)


class Outcome(Enum):
    """What an error says about the command it answers."""

    DEFINITELY_NOT = "definitely_not"  # not applied, and will not be under this attempt
    UNKNOWN = "unknown"  # may have been applied, or may be later; retry with the same key only


class HyperClusterError(Exception):
    """Root. `reason` is the stable code that goes on the wire; the message is for people."""

    reason = "INTERNAL"
    outcome = Outcome.UNKNOWN


# --- turned away before anything was proposed: definitely not, the key stays free (D-3) -------------


class TurnedAwayError(HyperClusterError):
    outcome = Outcome.DEFINITELY_NOT
    reason = "TURNED_AWAY"


class MalformedError(TurnedAwayError):
    """The message names the field and the limit."""

    reason = "MALFORMED"


class TooLargeError(TurnedAwayError):
    reason = "TOO_LARGE"


class DepsTooLongError(TurnedAwayError):
    reason = "DEPS_TOO_LONG"


class InvalidSignatureError(TurnedAwayError):
    reason = "INVALID_SIGNATURE"


class UnauthenticatedError(TurnedAwayError):
    reason = "UNAUTHENTICATED"


class ForbiddenError(TurnedAwayError):
    reason = "FORBIDDEN"


class NotLeaderError(TurnedAwayError):
    """`leader_hint` is the client address of the leader this node knows, or ''."""

    reason = "NOT_LEADER"

    def __init__(self, message: str, leader_hint: str = "") -> None:
        super().__init__(message)
        self.leader_hint = leader_hint


class NoQuorumError(TurnedAwayError):
    reason = "NO_QUORUM"


class QueueFullError(TurnedAwayError):
    reason = "QUEUE_FULL"


class RateLimitedError(TurnedAwayError):
    reason = "RATE_LIMITED"

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class HolderAliveError(TurnedAwayError):
    """A reclaim that comes too early (WS-43): send it again after the pause."""

    reason = "HOLDER_ALIVE"

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DiskFullError(TurnedAwayError):
    """The node refuses writes until there is room; it keeps serving reads (CL-4)."""

    reason = "DISK_FULL"


class ShuttingDownError(TurnedAwayError):
    reason = "SHUTTING_DOWN"


class StreamIdleError(TurnedAwayError):
    """A stream is ended because nothing came for too long; nothing is in flight on it."""

    reason = "STREAM_IDLE"


class WrongClusterError(TurnedAwayError):
    reason = "WRONG_CLUSTER"


class WrongWorkspaceError(TurnedAwayError):
    reason = "WRONG_WORKSPACE"


class HistoryChangedError(TurnedAwayError):
    reason = "HISTORY_CHANGED"


class HistoryGoneError(TurnedAwayError):
    """A read below the retained floor (D-18). `retained_from` is the first position that is kept, 0 where unknown."""

    reason = "HISTORY_GONE"

    def __init__(self, message: str, retained_from: int = 0) -> None:
        super().__init__(message)
        self.retained_from = retained_from


class NotFoundError(TurnedAwayError):
    reason = "NOT_FOUND"


class StepRefusedError(TurnedAwayError):
    """A change of members that may not follow the present configuration; the message says why (QUO-1)."""

    reason = "STEP_REFUSED"


class ChangeInProgressError(TurnedAwayError):
    """The change of members before this one, or the leader's first entry, is not committed yet: ask again."""

    reason = "CHANGE_IN_PROGRESS"


class BehindError(TurnedAwayError):
    """A bounded-stale read asked for a min_index this node has not applied in time."""

    reason = "BEHIND"


# --- may or may not have happened ---------------------------------------------------------------


class OutcomeUnknownError(HyperClusterError):
    """Leadership was lost, or a deadline passed, while the command was in flight."""

    reason = "UNKNOWN"


class DeadlineError(OutcomeUnknownError):
    reason = "DEADLINE"


class StreamStalledError(OutcomeUnknownError):
    """A stream is ended because its other side does not take what is sent."""

    reason = "STREAM_STALLED"


# --- judged by apply: final for its key ---------------------------------------------------------


class RefusedError(HyperClusterError):
    """A judged refusal: `reason` is the name of hypercluster.v1.Reason; `errno` is set for file operations."""

    outcome = Outcome.DEFINITELY_NOT

    def __init__(self, reason: str, message: str, *, errno: int = 0, version: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.errno = errno
        self.version = version


class FencedError(RefusedError):
    """A guarded write whose token is no longer that of a holder, or a lock that is gone (D-10)."""


class LockBusyError(RefusedError):
    """Somebody else holds the lock, and the caller did not want to wait. LOCK_HELD_EXPIRING: perhaps not for long."""


class LockWaitOverError(RefusedError):
    """A wait for a lock ended without a grant: its time was over, or it was cancelled."""


class DeadlockError(RefusedError):
    """The wait would have closed a cycle (WS-47). `cycle` holds the tickets of the waits, from the one that was asked
    for; empty if it was not told in time."""

    cycle: tuple[int, ...] = ()


# --- a lock --------------------------------------------------------------------------------------


class LockLostError(HyperClusterError):
    """A lease ended, or can not be known to hold any more, while its holder was at work: guarded writes are refused
    from then on, and what else was done under it may have met another holder's."""

    reason = "LOCK_LOST"


# --- the node can not go on -----------------------------------------------------------------------


class FatalError(BaseException):
    """The node must stop now. BaseException, so that no retry loop or `except Exception` swallows it."""

    reason = "FATAL"


class InvariantError(FatalError):
    """A `check()` failed: a defect, never the user's mistake."""

    reason = "INVARIANT"


class DiskFailedError(FatalError):
    """An fsync or write failed; it is never retried (CL-4)."""

    reason = "DISK_FAILED"


class DamagedError(FatalError):
    """Something durable does not verify; the message names it and the command that mends it (CL-3)."""

    reason = "DAMAGED"


class WrongDirectoryError(FatalError):
    """A data directory of another node, another cluster, or a newer version."""

    reason = "WRONG_DIRECTORY"


class ApplyFailedError(FatalError):
    """apply raised: names index and command (CL-16). `ordinal` counts the entry's commands from 0; None: unknown."""

    reason = "APPLY_FAILED"

    def __init__(self, message: str, index: int = 0, ordinal: int | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.ordinal = ordinal


class DivergedError(FatalError):
    """This node's digest is in the minority (CL-17)."""

    reason = "DIVERGED"


def check(condition: bool, message: str) -> None:
    """A safety invariant: raises also under -O, and stops the node."""
    if not condition:
        raise InvariantError(message)


@contextmanager
def fatal_if_raised(what: str) -> Iterator[None]:
    """Around what a callback does for others: an unexpected exception stops the node. It is a defect, and whoever waits
    for the rest of the work would wait for ever, while a line in some log is all that is seen of it."""
    try:
        yield
    except Exception as error:
        raise InvariantError(f"{what} failed: {error!r}") from error
