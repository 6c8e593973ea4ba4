"""The nodes of a cluster as a client sees them: channels, who leads, and reads that look for a node that answers.

Owns: one gRPC channel an address, the present guess of the leader, and what each node last said.
Never: commands; they go through stream.py.
Invariants: a read is sent again only because it changes nothing; the error that ends it names every node that was
tried and what it said. The handshake fails unless the other end holds a node certificate of our cluster.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from hypercluster import errors
from hypercluster.client.answers import from_rpc
from hypercluster.client.settings import ClientSettings
from hypercluster.client.stubs import cluster_service
from hypercluster.credentials import tls
from hypercluster.limits import CLIENT_MESSAGE_BYTES_MAX
from hypercluster.pb.v1 import cluster_pb2

T = TypeVar("T")

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 2 * CLIENT_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", CLIENT_MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # gRPC takes this for the time that one attempt to connect may take, handshake and all: three round trips.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    # A node that is gone without a word (power, network) is noticed while a call is open; nodes allow a ping in 2 s.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
)
LEARNED_NODES_MAX = 64
SILENT_S = 2.0  # without an answer to a read, its node is asked whether it is there at all
RETRY_S = (0.02, 0.4)  # first and longest pause between two attempts of a read


class Nodes:
    """Channels are opened when they are first needed. Close it in the loop that opened it."""

    def __init__(self, settings: ClientSettings, rng: random.Random) -> None:
        self.settings = settings
        self.leader = ""  # client address; '' while nobody is known to lead
        self.said: dict[str, str] = {}  # address -> what it said last, for error texts
        self._rng = rng
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._tls = tls.load(settings.tls) if settings.tls is not None else None
        self._next_reader = rng.randrange(len(settings.nodes))

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def addresses(self) -> list[str]:
        """The nodes we were told of, and those they told us of."""
        return list(dict.fromkeys((*self.settings.nodes, *self._channels)))

    def channel(self, address: str) -> grpc.aio.Channel:
        found = self._channels.get(address)
        if found is None:
            options: list[tuple[str, str | int]] = list(CHANNEL_OPTIONS)
            if self._tls is None:
                found = grpc.aio.insecure_channel(address, options=options)
            else:
                options += tls.expect_any_node(self._tls.subject.cluster_id)
                found = grpc.aio.secure_channel(address, tls.channel_credentials(self._tls), options=options)
            self._channels[address] = found
        return found

    def learn_leader(self, address: str) -> None:
        """A hint. Nodes vouch for each other: only members of the cluster hold certificates we accept."""
        if address and (address in self._channels or len(self._channels) < LEARNED_NODES_MAX):
            self.leader = address

    async def status(self, address: str, timeout_s: float | None = None) -> cluster_pb2.NodeStatus:
        """One node's own view. Raises an error of our tree."""
        stub = cluster_service(self.channel(address))
        try:
            answer: cluster_pb2.NodeStatus = await stub.Status(
                cluster_pb2.StatusRequest(), timeout=timeout_s or self.settings.probe_timeout_s
            )
        except grpc.aio.AioRpcError as error:
            self.said[address] = _words(error)
            raise from_rpc(error, address) from error
        self.said[address] = f"answers as a {answer.role}" + ("" if answer.leader else " without a leader")
        return answer

    async def find_leader(self, suspect: str = "") -> tuple[str, int]:
        """(client address, a Raft index known to be committed). ('', 0) if no node knows of a leader.

        Asks all nodes at once and takes the leader of the highest term; returns early on the first that says it
        leads, unless it is the one that has just failed us.
        """
        best: tuple[int, str, int] = (0, "", 0)
        tasks = {asyncio.ensure_future(self.status(a)): a for a in self.addresses()}
        try:
            for done in asyncio.as_completed(list(tasks)):
                try:
                    status = await done
                except errors.HyperClusterError:
                    continue
                leads = status.role == "leader"
                address = status.leader_client_address
                if address and (status.term, leads) >= (best[0], best[1] == ""):
                    best = (status.term, address, status.commit_index)
                if leads and address and address != suspect and status.term >= best[0]:
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.leader = best[1]
        return best[1], best[2]

    async def read(
        self,
        call: Callable[[grpc.aio.Channel, float], Awaitable[T]],
        what: str,
        *,
        any_node: bool = False,
        deadline_s: float | None = None,
    ) -> T:
        """Runs `call(channel, timeout_s)` against the leader, or any node, until one answers or time is up."""
        started_s = time.monotonic()
        limit_s = deadline_s or self.settings.read_deadline_s
        pause_s = RETRY_S[0]
        last: errors.HyperClusterError = errors.NoQuorumError(f"{what}: no node was asked")
        while True:
            left_s = limit_s - (time.monotonic() - started_s)
            if left_s <= 0:
                raise self._give_up(what, limit_s, last)
            address = self._reader(any_node)
            if not address:
                address, _ = await self.find_leader()
            if address:
                try:
                    return await self._attempt(address, call, left_s)
                except grpc.aio.AioRpcError as error:
                    last = from_rpc(error, what)
                    self.said[address] = _words(error)
                except errors.DeadlineError as error:
                    last = error
                if not self._is_worth_another(last):
                    raise last
                self._look_elsewhere(address, last)
            await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _attempt(self, address: str, call: Callable[[grpc.aio.Channel, float], Awaitable[T]], left_s: float) -> T:
        """Raises DeadlineError once the node has said nothing for SILENT_S and does not answer a probe either: one that
        hangs, or is cut off without a word, must not use up the time of a read."""
        if left_s <= SILENT_S:
            return await call(self.channel(address), left_s)
        work = asyncio.ensure_future(call(self.channel(address), left_s))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=SILENT_S)
                if work.done():
                    break
                try:
                    await self.status(address, SILENT_S)
                except errors.HyperClusterError as error:
                    if not work.done():
                        raise errors.DeadlineError(f"{address} {self.said[address]}") from error
            return work.result()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    def _reader(self, any_node: bool) -> str:
        if not any_node:
            return self.leader
        nodes = self.settings.nodes
        return nodes[self._next_reader % len(nodes)]

    def next_reader(self) -> None:
        """The next read of any node goes to another one."""
        self._next_reader += 1

    def _look_elsewhere(self, address: str, error: errors.HyperClusterError) -> None:
        self._next_reader += 1
        if self.leader == address:
            self.leader = ""
        if isinstance(error, errors.NotLeaderError):
            self.learn_leader(error.leader_hint)

    @staticmethod
    def _is_worth_another(error: errors.HyperClusterError) -> bool:
        return isinstance(
            error,
            errors.NotLeaderError
            | errors.NoQuorumError
            | errors.QueueFullError
            | errors.RateLimitedError
            | errors.BehindError
            | errors.OutcomeUnknownError,
        )

    def _give_up(self, what: str, tried_s: float, last: errors.HyperClusterError) -> errors.HyperClusterError:
        if isinstance(last, errors.NoQuorumError | errors.NotLeaderError | errors.OutcomeUnknownError):
            return errors.NoQuorumError(f"{what}: {self.no_leader_words(tried_s)}")
        return last

    def no_leader_words(self, tried_s: float) -> str:
        """What a person sees when nobody leads: what was tried, and what each node said."""
        nodes = self.addresses()
        lines = [f"no leader can be reached (tried {', '.join(nodes)} for {tried_s:.1f} s)"]
        lines += [f"  {node} {self.said.get(node, 'was not asked')}" for node in nodes]
        return "\n".join(lines)


def _words(error: grpc.aio.AioRpcError) -> str:
    details = error.details() or ""
    if error.code() is grpc.StatusCode.UNAVAILABLE and "refused" in details:
        return "refuses the connection"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "does not answer"
    if "ertificate" in details or "SSL" in details or "TLS" in details:
        return f"fails the TLS handshake: {details}"
    return f"says {error.code().name}: {details}"
