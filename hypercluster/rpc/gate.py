"""What every RPC passes before and after its service: who calls, may they, and how it ended (SEC-2).

Owns: the interceptor. It authenticates by the client certificate, looks the method up in authorisation.py, turns
errors of our tree into their status, and counts.
Never: lets a method through that has no row in the table, or an exception's text out of the process.
Invariants: a service runs only with `CALLER` set; each RPC is counted once, under the status it ended with.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_status import rpc_status

from hypercluster.errors import (
    FatalError,
    ForbiddenError,
    HyperClusterError,
)
from hypercluster.node.words import Caller
from hypercluster.rpc.authorisation import ACCESS, Access
from hypercluster.rpc.status import rich_status, status_of
from hypercluster.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

ABORT_S = 1.0

CALLER: ContextVar[Caller] = ContextVar("caller")

Context = grpc.aio.ServicerContext[Any, Any]
Authenticate = Callable[[Context], Caller]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """`operators`: principals that may call OPERATOR methods; empty means every client of the cluster. `admins`: those
    that may call ADMIN methods; empty means nobody."""

    operators: Collection[str] = ()
    admins: Collection[str] = ()


class Gate(grpc.aio.ServerInterceptor):
    def __init__(
        self,
        authenticate: Authenticate,
        settings: GateSettings,
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._authenticate = authenticate
        self._settings = settings
        self._metrics = metrics
        self._on_fatal = on_fatal

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method: str = handler_call_details.method
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # UNIMPLEMENTED, by gRPC
        return _rewrap(handler, lambda behaviour: self._guarded(method, behaviour))

    def _guarded(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
                async with _Passage(self, method, context):
                    async for message in behaviour(request, context):
                        yield message

            return generate

        async def run(request: Any, context: Context) -> Any:
            async with _Passage(self, method, context):
                return await behaviour(request, context)

        return run

    def admit(self, method: str, context: Context) -> Caller:
        """Raises UnauthenticatedError or ForbiddenError."""
        access = ACCESS.get(method)
        if access is None:
            raise ForbiddenError(f"{method} has no row in the authorisation table")
        caller = self._authenticate(context)
        operators = self._settings.operators
        if access is Access.OPERATOR and operators and caller.principal not in operators:
            raise ForbiddenError(f"{caller.principal} is not in access.operators")
        if access is Access.ADMIN and caller.principal not in self._settings.admins:
            raise ForbiddenError(f"{caller.principal} is not in access.admins, which says who may change the members")
        return caller

    def opened(self, method: str) -> None:
        self._metrics.rpcs_open.labels(method).inc()

    def ended(self, method: str, code: grpc.StatusCode) -> None:
        self._metrics.rpcs_open.labels(method).dec()
        self._metrics.rpcs.labels(method, code.name).inc()

    def fatal(self, error: FatalError) -> None:
        self._on_fatal(error)


class _Passage:
    """Around one call: CALLER set, errors made statuses, counted."""

    __slots__ = ("_context", "_gate", "_method")

    def __init__(self, gate: Gate, method: str, context: Context) -> None:
        self._gate = gate
        # A method that is not ours must not make a label of its own.
        self._method = method if method in ACCESS else "unknown"
        self._context = context
        gate.opened(self._method)

    async def __aenter__(self) -> None:
        try:
            CALLER.set(self._gate.admit(self._method, self._context))
        except HyperClusterError as error:
            self._gate.ended(self._method, status_of(error))
            await self._abort(error)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        code = grpc.StatusCode.OK
        try:
            match error:
                case None:
                    return
                case HyperClusterError():
                    code = status_of(error)
                    await self._abort(error)
                case FatalError():
                    code = grpc.StatusCode.INTERNAL
                    self._gate.fatal(error)
                    await self._abort(error)
                case grpc.aio.AbortError():
                    code = grpc.StatusCode.UNKNOWN
                case Exception() if not isinstance(error, grpc.RpcError | grpc.aio.UsageError):
                    code = grpc.StatusCode.INTERNAL
                    log.exception("an RPC failed unexpectedly", extra={"fields": {"method": self._method}})
                    await self._abort(error)
                case _:
                    code = grpc.StatusCode.CANCELLED
        finally:
            self._gate.ended(self._method, code)

    async def _abort(self, error: BaseException) -> None:
        """A status goes out behind what was written before it, so not where the peer takes nothing: then the call ends
        without waiting for that."""
        try:
            async with asyncio.timeout(ABORT_S):
                await self._context.abort_with_status(rpc_status.to_status(rich_status(error)))
        except TimeoutError:
            raise asyncio.CancelledError from None


def _rewrap(handler: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> grpc.RpcMethodHandler[Any, Any]:
    """The same handler around another behaviour."""
    make, behaviour = _FORMS[(bool(handler.request_streaming), bool(handler.response_streaming))](handler)
    made: grpc.RpcMethodHandler[Any, Any] = make(
        wrap(behaviour),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


_FORMS: dict[tuple[bool, bool], Callable[[Any], tuple[Callable[..., Any], Callable[..., Any]]]] = {
    (False, False): lambda h: (grpc.unary_unary_rpc_method_handler, h.unary_unary),
    (False, True): lambda h: (grpc.unary_stream_rpc_method_handler, h.unary_stream),
    (True, False): lambda h: (grpc.stream_unary_rpc_method_handler, h.stream_unary),
    (True, True): lambda h: (grpc.stream_stream_rpc_method_handler, h.stream_stream),
}
