"""Where this node stands: role, term, leader, and whether it takes writes.

Owns: the engine's status as the shell sees it, read at most once a turn of the loop, and the words for clients.
Never: decides who leads. A stale answer costs nothing: the engine refuses a proposal that comes too late.
"""

from __future__ import annotations

from collections.abc import Callable

from hypercluster.errors import DiskFullError, NoQuorumError, NotLeaderError, ShuttingDownError
from hypercluster.node.words import Turns
from hypercluster.raft.engine import Engine, EngineStatus
from hypercluster.telemetry.percentiles import Percentiles
from hypercluster.values import NodeId, Role

_WORDS = {
    "NOT_LEADER": "this node does not lead",
    "NO_QUORUM": "no majority of the voters can be reached; nothing was written",
    "DISK_FULL": "the disk is full; reads go on, writes come back when there is room",
    "CLOCK_SKEW": "this node's clock is too far from the others'; writes wait for another leader",
}


class Standing:
    def __init__(self, engine: Engine, turns: Turns, client_address: Callable[[NodeId], str]) -> None:
        """`client_address` is host:port of a node's client listener, '' when unknown."""
        self._engine = engine
        self._turns = turns
        self._client_address = client_address
        self._seen: EngineStatus | None = None
        self.commit_times = Percentiles()

    def status(self) -> EngineStatus:
        """As of some moment in this turn of the loop."""
        if self._seen is None:
            self._seen = self._engine.status()
            self._turns.call_soon(self._forget)
        return self._seen

    def _forget(self) -> None:
        self._seen = None

    def term(self) -> int:
        return self.status().term

    def leader_address(self, leader: NodeId | None) -> str:
        """Of `leader`, or of whom this node takes for the leader; '' when unknown."""
        known = leader or self.status().leader
        return self._client_address(known) if known is not None else ""

    def require_leader(self, *, stopping: bool = False) -> None:
        """Raises the turn-away that fits when this node takes no writes."""
        status = self.status()
        if status.role is not Role.LEADER:
            if status.leader is None:
                raise NoQuorumError("no leader is known; nothing was written")
            raise NotLeaderError(f"{status.leader} leads, not {status.node_id}", self.leader_address(status.leader))
        if stopping:
            raise ShuttingDownError("this node is shutting down and hands leadership over")
        if status.refusing_writes == "DISK_FULL":
            raise DiskFullError(self.words("DISK_FULL"))
        if status.refusing_writes:
            raise NoQuorumError(self.words(status.refusing_writes))

    def words(self, reason: str) -> str:
        return _WORDS.get(reason, reason)

    def note_commit(self, duration_us: int) -> None:
        self.commit_times.add(self._turns.time(), duration_us)
