"""The lane of a node's own commands: upkeep that it proposes while it leads.

Owns: the client_id and seqs of such a lane, what waits for its turn, and the way of an answer back.
Never: decides what is proposed; more than one message in flight; more than WAITING_MAX waiting.
Invariants: what was not judged under its key leaves the lane, and the next message begins another one, so that a seq
is never used for two commands; each message is answered exactly once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from hypercluster.errors import QueueFullError
from hypercluster.log.admission import admit
from hypercluster.node.proposer import Proposer
from hypercluster.node.standing import Standing
from hypercluster.node.words import Caller, Verdict
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, Submit
from hypercluster.state_machine.outcome import OK
from hypercluster.values import Scope

NODE_SCOPE: Final = Scope("hypercluster", "maintenance")
WAITING_MAX: Final = 64

Answered = Callable[[Sequence[Verdict]], None]


class OwnLane:
    """One of a kind of upkeep, so that no kind waits for another."""

    def __init__(
        self, proposer: Proposer, standing: Standing, *, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._proposer = proposer
        self._standing = standing
        self._random_bytes = random_bytes
        self._caller = Caller(f"node:{standing.status().node_id}", NODE_SCOPE, "")
        self._client_id = b""
        self._next_seq = 1
        self._waiting: deque[tuple[Sequence[MaintenanceCommand], Answered]] = deque()
        self._in_flight = False

    @property
    def idle(self) -> bool:
        return not self._in_flight and not self._waiting

    def propose(self, commands: Sequence[MaintenanceCommand], answered: Answered) -> None:
        """`answered` gets the verdicts; what was turned away has no raft_index. Raises QueueFullError."""
        if len(self._waiting) >= WAITING_MAX:
            raise QueueFullError(f"{WAITING_MAX} of the node's own messages wait: ask again")
        self._waiting.append((commands, answered))
        if not self._in_flight:
            self._send()

    def _send(self) -> None:
        commands, answered = self._waiting.popleft()
        if not self._client_id:
            self._client_id = self._random_bytes(16)
        message = Submit(
            client_id=self._client_id,
            first_seq=self._next_seq,
            floor=self._next_seq - 1,
            basis=self._standing.status().applied_index,
            commands=[Command(maintenance=command).SerializeToString() for command in commands],
        ).SerializeToString()
        self._in_flight = True
        count = len(commands)

        def settled(verdicts: Sequence[Verdict]) -> None:
            self._in_flight = False
            if all(verdict.raft_index for verdict in verdicts):
                self._next_seq += count
            else:
                self._client_id, self._next_seq = b"", 1  # what became of it does not matter: start another lane
            answered(verdicts)
            if self._waiting and not self._in_flight:
                self._send()

        self._proposer.submit_run(admit(message, maintenance=True), message, self._caller, settled, limited=False)


def outcomes(verdicts: Sequence[Verdict]) -> list[tuple[int, int]]:
    """(reason, version) of each command of a message that was judged."""
    found: list[tuple[int, int]] = []
    for verdict in verdicts:
        for place in range(verdict.ops):
            reason = verdict.reasons[place] if verdict.reasons else OK
            found.append((reason, verdict.versions[place] if verdict.versions else 0))
    return found


def was_judged(verdicts: Sequence[Verdict]) -> bool:
    return all(verdict.raft_index for verdict in verdicts)
