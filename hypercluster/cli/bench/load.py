"""A closed-loop load of hub writes or file operations over CommandService streams: one process, prepared bytes.

Owns: `Plan`, `run`. Commands are serialized before the clock starts, as a compiled client's would cost nothing
beside the server's work; what is measured is the cluster with a client that is not in its way.
Each session is one lane (D-7), a client of its own; the lanes are spread over `conns` connections, one stream each, as
etcd's clients share theirs. A lane keeps `window` commands in flight, `per_message` of them a Submit; lanes that are
ready at the same time share a message, as in the client library.
Run as `python -m hypercluster.cli.bench.load PLAN_JSON`: prints one JSON line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import grpc
import grpc.aio
import uvloop

from hypercluster.cli.bench.etcd import LoadResult
from hypercluster.limits import SUBMITS_MAX
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.command_pb2 import AcksBatch

STREAM = "/hypercluster.v1.CommandService/Stream"


@dataclass(frozen=True, slots=True)
class Plan:
    """`window` must be a multiple of `per_message`; `estimate_ops` bounds what is prepared."""

    address: str
    ca: str
    cert: str
    key: str
    sessions: int
    window: int
    per_message: int
    conns: int = 8
    seconds: float = 6.0
    warm: float = 2.0
    value_bytes: int = 256
    keys: int = 100_000
    estimate_ops_s: int = 60_000
    seed: int = 1
    server_name: str = ""
    workspace_id: str = ""  # hex; then the commands are file operations there
    inode_ids: tuple[str, ...] = ()  # hex; files that appends go to


@dataclass(slots=True)
class _Tally:
    measuring: bool = False
    running: bool = True
    acknowledged: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _prepare(plan: Plan, session: int, rng: random.Random) -> list[bytes]:
    """Field 7 of Submit, one a command."""
    count = int(plan.estimate_ops_s * (plan.seconds + plan.warm) / plan.sessions)
    make = _file_command if plan.workspace_id else _hub_command
    values = [(rng.randbytes(plan.value_bytes // 2).hex()[: plan.value_bytes - 2]).encode() for _ in range(1024)]
    return [_field(7, make(plan, session, number, rng, rng.choice(values))) for number in range(count)]


def _hub_command(plan: Plan, session: int, number: int, rng: random.Random, value: bytes) -> bytes:
    """{hub {metadata, key, SET, payload}}; the payload is a JSON string of `value_bytes`."""
    key = b"key%013d" % rng.randrange(plan.keys)
    return _field(1, _field(1, b"metadata") + _field(2, key) + b"\x18\x01" + _field(4, b'"' + value + b'"'))


def _file_command(plan: Plan, session: int, number: int, rng: random.Random, value: bytes) -> bytes:
    """A new file, or an append to one, in turn."""
    if number % 2:
        inode_id = bytes.fromhex(plan.inode_ids[session % len(plan.inode_ids)])
        operation = file_pb.FileCommand(write=file_pb.Write(inode_id=inode_id, append=True, inline=value))
    else:
        place = file_pb.Place(directory=bytes(16), name=b"s%d-%d-%d" % (plan.seed, session, number))
        operation = file_pb.FileCommand(create=file_pb.Create(place=place, mode=0o644, exclusive=True))
    return command_pb.Command(file=operation).SerializeToString()


@dataclass(slots=True)
class _Lane:
    """One client: what it has sent, when, and how much of it is answered."""

    client_id: bytes
    commands: list[bytes]
    sent: list[float] = field(default_factory=list)
    acknowledged: int = 0


class _Stream:
    """The lanes of one connection. Every lane sends its next commands whenever its window has room."""

    def __init__(self, plan: Plan, channel: grpc.aio.Channel, lanes: list[_Lane], tally: _Tally) -> None:
        self._plan = plan
        self._lanes = {lane.client_id: lane for lane in lanes}
        self._tally = tally
        self._workspace = _field(5, bytes.fromhex(plan.workspace_id)) if plan.workspace_id else b""
        self._stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(STREAM)
        self._raft_index = 1

    async def run(self) -> None:
        call = self._stream()
        parse = AcksBatch.FromString
        await self._send(call, self._lanes.values())
        while any(lane.acknowledged < len(lane.sent) for lane in self._lanes.values()):
            answer = await call.read()
            if not isinstance(answer, bytes):
                raise RuntimeError(f"the stream ended: {await call.code()} {await call.details()}")
            now = time.perf_counter()
            await self._send(
                call, {id(lane): lane for lane in [self._take(a, now) for a in parse(answer).acks]}.values()
            )
        await call.done_writing()

    async def _send(self, call: grpc.aio.StreamStreamCall[bytes, bytes], ready: Iterable[_Lane]) -> None:
        submits = [submit for lane in ready for submit in self._next(lane)]
        for start in range(0, len(submits), SUBMITS_MAX):
            await call.write(b"".join(submits[start : start + SUBMITS_MAX]))

    def _next(self, lane: _Lane) -> Iterator[bytes]:
        """What there is room for in its window, as fields of a SubmitBatch."""
        plan, sent, per_message = self._plan, lane.sent, self._plan.per_message
        while (
            self._tally.running
            and len(sent) - lane.acknowledged + per_message <= plan.window
            and len(sent) + per_message <= len(lane.commands)
        ):
            first = len(sent)
            head = _field(1, lane.client_id) + b"\x10" + _varint(first + 1)
            if lane.acknowledged:  # a field that is zero is not written: the cluster takes the shortest encoding only
                head += b"\x18" + _varint(lane.acknowledged)
            head += b"\x20" + _varint(self._raft_index) + self._workspace
            sent.extend([time.perf_counter()] * per_message)
            yield _field(1, head + b"".join(lane.commands[first : first + per_message]))

    def _take(self, acks: command_pb.Acks, now: float) -> _Lane:
        lane, tally = self._lanes[acks.client_id], self._tally
        if any(acks.reason):
            tally.refused += sum(1 for r in acks.reason if r)
            if not acks.raft_index:
                raise RuntimeError(f"turned away: reason {acks.reason[0]} {acks.message}")
        self._raft_index = max(self._raft_index, acks.raft_index)
        start = acks.first_seq - 1
        lane.acknowledged = max(lane.acknowledged, start + acks.count)
        if tally.measuring:
            tally.acknowledged += acks.count
            tally.latencies.extend([now - t for t in lane.sent[start : start + acks.count]])
        return lane


def channel_to(address: str, ca: str, cert: str, key: str, server_name: str = "") -> grpc.aio.Channel:
    """A connection of its own (no shared subchannel)."""
    options: list[tuple[str, object]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", 16 << 20),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))

    def read(path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
    return grpc.aio.secure_channel(address, credentials, options=options)


async def run(plan: Plan) -> LoadResult:
    rng = random.Random(plan.seed)
    tally = _Tally()
    channels = [channel_to(plan.address, plan.ca, plan.cert, plan.key, plan.server_name) for _ in range(plan.conns)]
    lanes = [_Lane(os.urandom(16), _prepare(plan, i, rng)) for i in range(plan.sessions)]
    streams = [_Stream(plan, channel, lanes[i :: plan.conns], tally) for i, channel in enumerate(channels)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
    tasks = [asyncio.create_task(s.run()) for s in streams]
    await asyncio.wait(tasks, timeout=plan.warm, return_when=asyncio.FIRST_EXCEPTION)
    tally.measuring, began = True, time.perf_counter()
    await asyncio.wait(tasks, timeout=plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
    tally.measuring, tally.running = False, False
    elapsed = time.perf_counter() - began
    await asyncio.wait_for(asyncio.gather(*tasks), timeout=30)
    for channel in channels:
        await channel.close()
    times = sorted(tally.latencies)

    def at(fraction: float) -> float:
        return times[min(len(times) - 1, int(len(times) * fraction))] * 1e3 if times else 0.0

    return LoadResult(tally.acknowledged / elapsed, at(0.5), at(0.99), at(1.0), len(times), tally.refused)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(run(plan)))), flush=True)


if __name__ == "__main__":
    main()
