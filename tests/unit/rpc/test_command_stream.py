"""Streams of commands: bounded, coalesced, and independent of each other (CL-13)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hypercluster.errors import MalformedError, StreamIdleError
from hypercluster.limits import STREAM_IN_FLIGHT_MAX, SUBMITS_MAX
from hypercluster.node.words import Caller, Sink, Verdict
from hypercluster.pb.v1.command_pb2 import AcksBatch, SubmitBatch
from hypercluster.rpc.command_service import CommandService
from tests.unit.node.commands import CALLER


class PipeCall:
    """A call whose two directions a test feeds and reads; a write waits while nobody reads."""

    def __init__(self) -> None:
        self.caller: Caller = CALLER
        self.timeout_s = 5.0
        self.to_server: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.written: list[bytes] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def read(self) -> bytes | None:
        return await self.to_server.get()

    async def write(self, message: bytes) -> None:
        await self.reading.wait()
        self.written.append(message)

    def send(self, *submits: bytes) -> None:
        self.to_server.put_nowait(SubmitBatch(submits=submits).SerializeToString())

    def answered(self) -> int:
        return sum(acks.count for m in self.written for acks in AcksBatch.FromString(m).acks)


class SlowProposer:
    """Keeps what it is given until `answer`."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Sink]] = []

    def submit(self, message: bytes, caller: Caller, sink: Sink) -> None:
        if message == b"bad":
            raise MalformedError("no address")
        self.taken.append((message, sink))

    def answer(self) -> None:
        taken, self.taken = self.taken, []
        for message, sink in taken:
            verdicts: Sequence[Verdict] = [Verdict(b"a" * 16, int(message), 1, 7)]
            sink(verdicts)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def open_stream(proposer: SlowProposer, call: PipeCall, idle_s: float = 600) -> asyncio.Task[None]:
    service = CommandService(proposer, idle_s=idle_s)  # type: ignore[arg-type]
    return asyncio.create_task(service.stream(call))  # type: ignore[arg-type]


@pytest.mark.req("CL-13")
async def test_a_stream_reads_no_further_than_its_bound() -> None:
    proposer, call = SlowProposer(), PipeCall()
    task = open_stream(proposer, call)
    for seq in range(1, STREAM_IN_FLIGHT_MAX + 500):
        call.send(str(seq).encode())
    await turns()
    assert len(proposer.taken) == STREAM_IN_FLIGHT_MAX
    proposer.answer()
    await turns()
    assert call.answered() == STREAM_IN_FLIGHT_MAX
    assert len(call.written) == 1, "one write carries all that is ready"
    assert len(proposer.taken) == 499
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("CL-13")
async def test_what_is_sent_together_is_taken_one_by_one_in_its_order() -> None:
    proposer, call = SlowProposer(), PipeCall()
    task = open_stream(proposer, call)
    call.send(*[str(seq).encode() for seq in range(1, SUBMITS_MAX + 1)])
    await turns()
    assert [int(run) for run, _ in proposer.taken] == list(range(1, SUBMITS_MAX + 1))
    proposer.answer()
    await turns()
    assert call.answered() == SUBMITS_MAX
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("CL-13")
async def test_a_client_that_reads_nothing_holds_up_only_itself() -> None:
    proposer, stuck, lively = SlowProposer(), PipeCall(), PipeCall()
    tasks = [open_stream(proposer, stuck), open_stream(proposer, lively)]
    stuck.reading.clear()
    for seq in range(1, 3 * STREAM_IN_FLIGHT_MAX):
        stuck.send(str(seq).encode())
    for round_number in range(5):
        lively.send(str(round_number + 1).encode())
        await turns()
        proposer.answer()
        await turns()
    assert lively.answered() == 5
    assert stuck.to_server.qsize() > STREAM_IN_FLIGHT_MAX, "it is not read any more"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_end_of_the_clients_side_waits_for_its_answers() -> None:
    proposer, call = SlowProposer(), PipeCall()
    task = open_stream(proposer, call)
    for seq in (1, 2, 3):
        call.send(str(seq).encode())
    call.to_server.put_nowait(None)
    await turns()
    assert not task.done()
    proposer.answer()
    await asyncio.wait_for(task, 5)
    assert call.answered() == 3


async def test_a_message_without_an_address_ends_the_stream_with_its_error() -> None:
    call = PipeCall()
    task = open_stream(SlowProposer(), call)
    call.send(b"bad")
    with pytest.raises(MalformedError):
        await asyncio.wait_for(task, 5)


@pytest.mark.req("CL-13")
async def test_an_idle_stream_is_ended_and_one_that_waits_is_not() -> None:
    proposer, idle, waiting = SlowProposer(), PipeCall(), PipeCall()
    waiting.send(b"1")
    waits = open_stream(proposer, waiting, idle_s=0.0)
    await turns()
    with pytest.raises(StreamIdleError):
        await asyncio.wait_for(open_stream(SlowProposer(), idle, idle_s=0.0), 5)
    assert not waits.done(), "its command is not answered yet"
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
