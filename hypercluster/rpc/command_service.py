"""CommandService: pipelined commands in, acknowledgements out.

Owns: the streams; how far one may run ahead of its answers; one write for all answers that are ready.
Never: decides about a command; parses one (admission does, once).
Invariants: a stream reads on only while fewer than STREAM_IN_FLIGHT_MAX of its Submits wait for an answer, so
its outbox is bounded whatever the client does; an end of the client's side is answered after its last command is;
a stream without a message for STREAM_IDLE_S ends; one slow stream holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypercluster import limits
from hypercluster.errors import DeadlineError, MalformedError, StreamIdleError, TooLargeError
from hypercluster.node.proposer import Proposer
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import SubmitBatch
from hypercluster.rpc.acks import encode
from hypercluster.rpc.calls import Call, parse


class CommandService:
    def __init__(self, proposer: Proposer, *, idle_s: float = limits.STREAM_IDLE_S) -> None:
        self._proposer = proposer
        self._idle_s = idle_s

    async def stream(self, call: Call) -> None:
        await _Stream(call, self._proposer, self._idle_s).run()

    async def call(self, message: bytes, call: Call) -> bytes:
        answered: asyncio.Future[Sequence[Verdict]] = asyncio.get_running_loop().create_future()

        def sink(verdicts: Sequence[Verdict]) -> None:
            if not answered.done():
                answered.set_result(verdicts)

        self._proposer.submit(message, call.caller, sink)
        try:
            async with asyncio.timeout(call.timeout_s):
                return encode(await answered)
        except TimeoutError:
            raise DeadlineError(
                f"no answer within {call.timeout_s:.1f} s; the commands may still be applied: send them again "
                "with the same keys"
            ) from None


def split(message: bytes) -> Sequence[bytes]:
    """The serialized Submits of a SubmitBatch. Raises MalformedError or TooLargeError."""
    submits = parse(SubmitBatch, message).submits
    if not 1 <= len(submits) <= limits.SUBMITS_MAX:
        error = TooLargeError if submits else MalformedError
        raise error(f"submits holds {len(submits)}, limit SUBMITS_MAX is 1 to {limits.SUBMITS_MAX}")
    return submits


class _Stream:
    """One open stream: this coroutine reads, a task of its own writes."""

    __slots__ = (
        "_answered",
        "_answers",
        "_call",
        "_idle_s",
        "_in_flight",
        "_last_s",
        "_loop",
        "_proposer",
        "_room",
        "_wake",
    )

    def __init__(self, call: Call, proposer: Proposer, idle_s: float) -> None:
        self._call = call
        self._proposer = proposer
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._answers: list[Verdict] = []
        self._answered = 0  # Submits whose verdicts are in `_answers`
        self._in_flight = 0  # Submits read whose answer has not been handed to gRPC
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._last_s = self._loop.time()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write())
                idle = group.create_task(self._watch_idle())
                await self._read()
                idle.cancel()
                while self._in_flight:  # the client has closed its side: it still gets every answer
                    self._room.clear()
                    await self._room.wait()
                writer.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _read(self) -> None:
        read, submit, caller, sink = self._call.read, self._proposer.submit, self._call.caller, self._sink
        while True:
            message = await read()
            if message is None:
                return
            self._last_s = self._loop.time()
            for run in split(message):
                self._in_flight += 1
                submit(run, caller, sink)
            while self._in_flight >= limits.STREAM_IN_FLIGHT_MAX:
                self._room.clear()
                await self._room.wait()

    def _sink(self, verdicts: Sequence[Verdict]) -> None:
        self._answers.extend(verdicts)
        self._answered += 1
        self._wake.set()

    async def _write(self) -> None:
        write = self._call.write
        while True:
            if not self._answers:
                self._wake.clear()
                await self._wake.wait()
            verdicts, self._answers = self._answers, []
            answered, self._answered = self._answered, 0
            await write(encode(verdicts))
            self._in_flight -= answered
            self._room.set()

    async def _watch_idle(self) -> None:
        while True:
            idle_s = self._loop.time() - self._last_s
            if idle_s >= self._idle_s and not self._in_flight:
                raise StreamIdleError(f"no command on this stream for {self._idle_s:.0f} s")
            await asyncio.sleep(max(1.0, self._idle_s - idle_s))
