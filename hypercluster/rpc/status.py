"""Errors on the wire: one gRPC status for each class of the error tree, and a reason code a program can act on.

Owns: the table, and the conversion both ways.
Never: sends the text of an unexpected exception; a client gets the words of our own tree only.
Invariants: a test proves that the table names every class of errors.py; the reason code travels as
google.rpc.ErrorInfo (domain "hypercluster") in the trailing metadata, with leader_hint, retry_after_ms and
outcome beside it where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hypercluster import errors

DOMAIN = "hypercluster"

STATUS_OF: Mapping[type[BaseException], grpc.StatusCode] = {
    errors.HyperClusterError: grpc.StatusCode.INTERNAL,
    errors.TurnedAwayError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MalformedError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DepsTooLongError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidSignatureError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotLeaderError: grpc.StatusCode.UNAVAILABLE,
    errors.NoQuorumError: grpc.StatusCode.UNAVAILABLE,
    errors.QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RateLimitedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.HolderAliveError: grpc.StatusCode.UNAVAILABLE,
    errors.DiskFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ShuttingDownError: grpc.StatusCode.UNAVAILABLE,
    errors.StreamIdleError: grpc.StatusCode.CANCELLED,
    errors.WrongClusterError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WrongWorkspaceError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HistoryChangedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HistoryGoneError: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.StepRefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ChangeInProgressError: grpc.StatusCode.UNAVAILABLE,
    errors.BehindError: grpc.StatusCode.UNAVAILABLE,
    errors.OutcomeUnknownError: grpc.StatusCode.ABORTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.StreamStalledError: grpc.StatusCode.ABORTED,
    errors.RefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.FencedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LockBusyError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LockWaitOverError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DeadlockError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LockLostError: grpc.StatusCode.ABORTED,
    errors.FatalError: grpc.StatusCode.INTERNAL,
    errors.InvariantError: grpc.StatusCode.INTERNAL,
    errors.DiskFailedError: grpc.StatusCode.INTERNAL,
    errors.DamagedError: grpc.StatusCode.DATA_LOSS,
    errors.WrongDirectoryError: grpc.StatusCode.INTERNAL,
    errors.ApplyFailedError: grpc.StatusCode.INTERNAL,
    errors.DivergedError: grpc.StatusCode.DATA_LOSS,
}


def status_of(error: BaseException) -> grpc.StatusCode:
    """The nearest class of the table; INTERNAL for whatever is not of our tree."""
    for kind in type(error).__mro__:
        code = STATUS_OF.get(kind)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def rich_status(error: BaseException) -> status_pb2.Status:
    """google.rpc.Status with an ErrorInfo."""
    code: int = status_of(error).value[0]
    ours = isinstance(error, errors.HyperClusterError)
    metadata = {"outcome": error.outcome.value} if isinstance(error, errors.HyperClusterError) else {}
    if isinstance(error, errors.NotLeaderError) and error.leader_hint:
        metadata["leader_hint"] = error.leader_hint
    if isinstance(error, errors.RateLimitedError | errors.HolderAliveError):
        metadata["retry_after_ms"] = str(error.retry_after_ms)
    if isinstance(error, errors.RefusedError) and error.errno:
        metadata["errno"] = str(error.errno)
    reason = error.reason if isinstance(error, errors.HyperClusterError) else "INTERNAL"
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status_pb2.Status(
        code=code if code else code_pb2.INTERNAL,
        message=str(error) if ours else "internal error; the node's log has the details",
        details=[detail],
    )


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of this project in `status`, if any."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None
