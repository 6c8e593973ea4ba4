"""What the cluster said, as errors of our tree (D-8).

Owns: the conversion of a settled command and of a failed gRPC call to an error that is definite or unknown.
Never: retries.
Invariants: a refusal of a file operation carries its errno; a reason nobody knows becomes an unknown outcome.
"""

from __future__ import annotations

import errno as errno_names
import os

import grpc
from google.rpc import error_details_pb2, status_pb2

from hypercluster import errors
from hypercluster.client.lane_types import Settled, Verdict, reason_name
from hypercluster.pb.v1 import command_pb2 as command_pb

DOMAIN = "hypercluster"
DETAILS_KEY = "grpc-status-details-bin"


def _by_reason(root: type[errors.HyperClusterError]) -> dict[str, type[errors.HyperClusterError]]:
    found = {root.reason: root}
    for child in root.__subclasses__():
        found |= _by_reason(child)
    return found


ERRORS = _by_reason(errors.HyperClusterError)

# What is refused in words a person can act on.
WORDS: dict[int, str] = {
    command_pb.REASON_PRECONDITION_FAILED: "it has changed since it was read",
    command_pb.REASON_UNKNOWN_NAMESPACE: "there is no such namespace",
    command_pb.REASON_BAD_OP_TYPE: "the namespace does not allow this operation",
    command_pb.REASON_NO_WORKSPACE: "there is no such workspace",
    command_pb.REASON_EXISTS: "it exists already",
    command_pb.REASON_LIMIT: "it goes beyond a limit",
    command_pb.REASON_IDEMPOTENCY_CONFLICT: "the key was used for another command",
    command_pb.REASON_FENCED: "the lock is no longer held by this token",
    command_pb.REASON_LOCK_HELD_EXPIRING: "another holds the lock, and has not renewed it in time",
    command_pb.REASON_ABANDONED: "it was given up, and never applied",
}

# The errno of a refusal that is not an errno of the model (WS-28, WS-62).
ERRNO_OF_REASON: dict[int, int] = {
    command_pb.REASON_PRECONDITION_FAILED: errno_names.EBUSY,
    command_pb.REASON_EXISTS: errno_names.EEXIST,
    command_pb.REASON_NO_WORKSPACE: errno_names.ENOENT,
    command_pb.REASON_FENCED: errno_names.ESTALE,
    command_pb.REASON_LIMIT: errno_names.EFBIG,
    command_pb.REASON_LOCK_HELD_EXPIRING: errno_names.EWOULDBLOCK,
}

# Refusals that a program tells apart by class.
KIND_OF_REASON: dict[int, type[errors.RefusedError]] = {
    command_pb.REASON_FENCED: errors.FencedError,
    command_pb.REASON_LOCK_HELD_EXPIRING: errors.LockBusyError,
}
ERRNO_WORDS: dict[int, str] = {errno_names.EWOULDBLOCK: "another holds the lock"}
KIND_OF_ERRNO: dict[int, type[errors.RefusedError]] = {
    errno_names.EWOULDBLOCK: errors.LockBusyError,
    errno_names.EDEADLK: errors.DeadlockError,
}


def refusal(settled: Settled, what: str) -> errors.RefusedError:
    """`what` names the operation and its object, for people."""
    number = settled.file.errno if settled.file is not None and settled.file.errno else 0
    number = number or ERRNO_OF_REASON.get(settled.reason, 0)
    if settled.reason == command_pb.REASON_ERRNO:
        words = ERRNO_WORDS.get(number) or os.strerror(number).lower()
        code = errno_names.errorcode.get(number, f"errno {number}")
        message = f"{what}: {words} ({code})"
    else:
        words = settled.message or WORDS.get(settled.reason, reason_name(settled.reason).lower().replace("_", " "))
        message = f"{what}: {words}"
    present = settled.file.present_index if settled.file is not None else 0
    if settled.reason == command_pb.REASON_PRECONDITION_FAILED:
        message += f" (present {'index' if present else 'version'} {present or settled.version})"
    kind = KIND_OF_REASON.get(settled.reason) or KIND_OF_ERRNO.get(number, errors.RefusedError)
    return kind(reason_name(settled.reason), message, errno=number, version=present or settled.version)


def raise_unless_ok(settled: Settled, what: str) -> Settled:
    """Raises RefusedError, OutcomeUnknownError, or the turn-away that a command ended with."""
    match settled.verdict:
        case Verdict.OK:
            return settled
        case Verdict.REFUSED:
            raise refusal(settled, what)
        case Verdict.UNKNOWN:
            words = settled.message or "no answer came in time"
            error = errors.OutcomeUnknownError(f"{what}: it may or may not have been done: {words}")
            if settled.intent is not None:
                error.add_note(settled.intent.token())
            raise error
        case Verdict.NOT_DONE:
            kind = ERRORS.get(reason_name(settled.reason), errors.TurnedAwayError)
            message = f"{what}: not done: {settled.message or reason_name(settled.reason)}"
            if kind is errors.NotLeaderError or reason_name(settled.reason) == "SHUTTING_DOWN":
                raise errors.NoQuorumError(message)
            if kind is errors.RateLimitedError:
                raise errors.RateLimitedError(message, 0)
            if not issubclass(kind, errors.TurnedAwayError):
                kind = errors.TurnedAwayError
            raise kind(message)


def errno_of(error: errors.HyperClusterError) -> int:
    """What a file interface answers for it (WS-3, WS-4, WS-28)."""
    match error:
        case errors.RefusedError():
            return error.errno or errno_names.EIO
        case errors.NoQuorumError() | errors.NotLeaderError():
            return errno_names.EROFS
        case errors.QueueFullError() | errors.RateLimitedError():
            return errno_names.EAGAIN
        case errors.ForbiddenError() | errors.UnauthenticatedError():
            return errno_names.EACCES
        case errors.NotFoundError():
            return errno_names.ENOENT
        case errors.DiskFullError():
            return errno_names.ENOSPC
        case errors.MalformedError():
            return errno_names.EINVAL
        case errors.TooLargeError():
            return errno_names.EFBIG
        case _:
            return errno_names.EIO


def details_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo a node put beside the status, if it was one of ours."""
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        status = status_pb2.Status.FromString(value)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                return info
    return None


def from_rpc(error: grpc.aio.AioRpcError, what: str) -> errors.HyperClusterError:
    """A failed read or stream as an error of our tree. Reads change nothing, so a lost node is definite for them."""
    info = details_of(error)
    words = error.details() or error.code().name.lower()
    message = f"{what}: {words}"
    if info is None:
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED:
                return errors.UnauthenticatedError(message)
            case grpc.StatusCode.PERMISSION_DENIED:
                return errors.ForbiddenError(message)
            case grpc.StatusCode.NOT_FOUND:
                return errors.NotFoundError(message)
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return errors.DeadlineError(message)
            case grpc.StatusCode.INVALID_ARGUMENT:
                return errors.MalformedError(message)
            case _:
                return errors.NoQuorumError(message)
    if info.reason == errors.NotLeaderError.reason:
        return errors.NotLeaderError(message, info.metadata.get("leader_hint", ""))
    if info.reason == errors.RateLimitedError.reason:
        return errors.RateLimitedError(message, int(info.metadata.get("retry_after_ms", "0")))
    kind = ERRORS.get(info.reason)
    if kind is None or kind is errors.HyperClusterError or issubclass(kind, errors.RefusedError):
        return errors.RefusedError(info.reason, message, errno=int(info.metadata.get("errno", "0")))
    return kind(message)
