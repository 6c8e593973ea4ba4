"""Simulated clients: the product's lane logic, a stream to one node at a time, and a seeded workload.

Owns: `SimClient`: connecting, following leader hints, breaking streams, and telling the invariants every answer.
Never: judgement of its own about outcomes; that is the lane's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from hypercluster.client.abandoning_lane import AbandoningLane
from hypercluster.client.lane_types import LaneSettings, Redirect, Send, Settled, Verdict
from hypercluster.pb.v1 import command_pb2 as pb
from hypercluster.values import ClientId, NodeId
from tests.simulation.events import EventQueue
from tests.simulation.invariants import Answer, Invariants
from tests.simulation.network import SimNetwork

REDIAL_S = 0.05
SILENCE_S = 2.0
DEADLINES_S = (30.0, 30.0, 30.0, 1.5)  # short: commands of unknown outcome, after which the lane begins anew
NO_LEADER_S = (5.0, 5.0, 0.5)
WAKE_S = 0.1  # how often a client looks whether it has more to ask


class Front(Protocol):
    """What a client sees of the nodes."""

    def submit(self, node: NodeId, message: bytes, principal: str, sink: Callable[[list[pb.Acks]], None]) -> bool:
        """False when the node does not answer (down, or refuses the connection)."""


class Workload(Protocol):
    """Commands of one client, and what it learns from answers."""

    def next_command(self) -> tuple[bytes, bytes, bytes] | None:
        """(command, workspace_id, space): `space` names the order the command takes a position in. None: wait.

        No two commands of a client are equal."""

    def settled(self, command: bytes, settled: Settled) -> None: ...


class SimClient:
    """One process with one lane."""

    def __init__(
        self,
        name: str,
        events: EventQueue,
        rng: random.Random,
        network: SimNetwork,
        nodes: Sequence[NodeId],
        front: Front,
        workload: Workload,
        invariants: Invariants,
        *,
        in_flight_max: int,
        wake_s: float = WAKE_S,
        patience: float = 1.0,
    ) -> None:
        """`patience` stretches waits of commands and for dialling again, as the timing of the cluster is stretched."""
        self.name = name
        self._events = events
        self._rng = rng
        self._network = network
        self._nodes = list(nodes)
        self._front = front
        self._workload = workload
        self._invariants = invariants
        self._in_flight_max = in_flight_max
        self._wake_s = wake_s
        self._redial_s = REDIAL_S * patience
        self._lane = AbandoningLane(
            lambda: ClientId(rng.randbytes(16)),
            rng,
            settings=LaneSettings(
                messages_in_flight=rng.randint(1, 6),
                deadline_ns=int(rng.choice(DEADLINES_S) * patience * 1e9),
                no_leader_ns=int(rng.choice(NO_LEADER_S) * patience * 1e9),
            ),
            journal=self,
        )
        self._commands: dict[int, bytes] = {}  # by ticket
        self._spaces: dict[bytes, bytes] = {}  # command -> the order it takes a position in
        self._node = rng.choice(self._nodes)
        self._epoch = 0
        self._arrives_at = 0.0
        self._wake_at = -1.0
        self._watched = False  # a timer looks after the present stream
        self._heard_at = 0.0
        self.stopped = False
        self.invoked = 0
        self.outcomes: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        events.after(rng.random() * 0.1, self._connect)

    @property
    def node(self) -> NodeId:
        """The one that it takes for the leader."""
        return self._node

    @property
    def pending(self) -> int:
        return self._lane.pending

    # --- streams ---------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return int(self._events.now * 1e9)

    def _connect(self) -> None:
        self._epoch += 1
        self._watched = False
        self._arrives_at = self._events.now
        self._lane.connected(self._now_ns())
        self._work()

    def _break(self) -> None:
        """The stream is gone; what was sent on it may still arrive."""
        self._epoch += 1
        self._lane.disconnected(self._now_ns())
        epoch = self._epoch

        def again() -> None:
            if self._epoch == epoch:
                self._connect()

        self._events.after(self._redial_s * (0.5 + self._rng.random()), again)

    def _send(self, payload: bytes) -> None:
        weather, epoch, node = self._network.weather, self._epoch, self._node
        self._arrives_at = max(self._arrives_at, self._events.now + self._network.delay_s())
        arrives_at = self._arrives_at
        if weather.client_break_chance and self._rng.random() < weather.client_break_chance:
            arrives_at += self._rng.random() * weather.client_late_s
            self._events.after(0.0, lambda: self._break() if self._epoch == epoch else None)

        def deliver() -> None:
            def sink(acks: list[pb.Acks]) -> None:
                self._events.after(self._network.delay_s(), lambda: self._answered(epoch, acks))

            if not self._front.submit(node, payload, self.name, sink) and self._epoch == epoch:
                self._node = self._rng.choice(self._nodes)
                self._break()

        self._events.at(arrives_at, deliver)
        if not self._watched:
            self._watched = True
            self._heard_at = self._events.now
            self._events.after(SILENCE_S, lambda: self._watch_stream(epoch))

    def _watch_stream(self, epoch: int) -> None:
        """A node that dies or is cut off never answers: a stream that is silent for SILENCE_S is given up."""
        if self._epoch != epoch:
            return
        if not self._lane.pending:
            self._watched = False
            return
        left_s = self._heard_at + SILENCE_S - self._events.now
        if left_s > 0:
            self._events.after(left_s, lambda: self._watch_stream(epoch))
        else:
            self._node = self._rng.choice(self._nodes)
            self._break()

    def _answered(self, epoch: int, answers: list[pb.Acks]) -> None:
        if epoch != self._epoch:
            return
        self._heard_at = self._events.now
        for acks in answers:
            self._lane.acks(self._now_ns(), acks)
        self._work()

    # --- work -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        now_ns = self._now_ns()
        while not self.stopped and self._lane.pending < self._in_flight_max and self._lane.has_room:
            found = self._workload.next_command()
            if found is None:
                break
            command, workspace, space = found
            self.invoked += 1
            ticket = self._lane.submit(now_ns, command, workspace)
            self._commands[ticket] = command
            self._spaces[command] = space
        redirect: Redirect | None = None
        for instruction in self._lane.advance(now_ns):
            match instruction:
                case Send():
                    self._send(instruction.payload)
                case Settled():
                    self._settled(instruction)
                case Redirect():
                    redirect = instruction
                case _:
                    pass
        if redirect is not None:
            hint = NodeId(redirect.leader_hint)
            self._node = hint if hint in self._nodes else self._rng.choice(self._nodes)
            self._break()
        self._arm()

    def _arm(self) -> None:
        """Wakes at the lane's deadline, and now and then to invoke more."""
        deadline = self._lane.next_deadline_ns()
        at = self._events.now + self._wake_s
        at = at if deadline is None else min(deadline / 1e9, at)
        at = max(at, self._events.now + 0.001)
        if self._wake_at > self._events.now and self._wake_at <= at:
            return
        self._wake_at = at

        def wake() -> None:
            if self._wake_at == at:
                self._wake_at = -1.0
                self._work()

        self._events.at(at, wake)

    # --- what the lane tells its journal -----------------------------------------------------------------

    def record(
        self, kind: str, at_ns: int, client_id: bytes, seq: int, command: bytes, settled: Settled | None
    ) -> None:
        if settled is None or settled.verdict not in (Verdict.OK, Verdict.REFUSED) or not settled.raft_index:
            return
        position = 0
        if settled.verdict is Verdict.OK:
            position = settled.file.log_index if settled.file is not None else settled.version
        answer = Answer(settled.raft_index, settled.reason, position)
        self._invariants.answered(client_id, seq, self._spaces.get(command, b""), answer)

    def _settled(self, settled: Settled) -> None:
        command = self._commands.pop(settled.ticket)
        self._spaces.pop(command, None)
        self.outcomes[settled.verdict] += 1
        self._events.trace(
            f"{self.name} {settled.ticket} {settled.verdict.value} {settled.reason} {settled.raft_index}"
        )
        self._workload.settled(command, settled)
