"""Where this node stands: role, term, leader, and whether it takes writes.

Owns: the engine's status as the shell sees it, read once in SEEN_S at most, and the words for clients.
Never: decides who leads. A stale answer costs nothing: the engine refuses a proposal or a read that comes too late.
"""

from __future__ import annotations

from collections.abc import Callable

from hypercluster.errors import DiskFullError, NoQuorumError, NotLeaderError, ShuttingDownError, TurnedAwayError
from hypercluster.node.words import Turns
from hypercluster.raft.engine import Engine, EngineStatus, NotProposed
from hypercluster.telemetry.percentiles import Percentiles
from hypercluster.values import NodeId, Role

SEEN_S = 0.02

_WORDS = {
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
        self._seen_until_s = 0.0
        self.commit_times = Percentiles()
        self.disk_low = False  # set by the disk watch: room is left for what is under way, not for more (CL-4)

    def status(self) -> EngineStatus:
        """As of at most SEEN_S ago: building one costs as much as admitting a command."""
        now_s = self._turns.time()
        if self._seen is None or now_s >= self._seen_until_s:
            self._seen = self._engine.status()
            self._seen_until_s = now_s + SEEN_S
        return self._seen

    def status_now(self) -> EngineStatus:
        """Read anew: what is told to people and tools must not be older than what they were told before."""
        self.forget()
        return self.status()

    def forget(self) -> None:
        """The next status is read anew."""
        self._seen = None

    def term(self) -> int:
        return self.status().term

    def leads(self) -> bool:
        return self.status().role is Role.LEADER

    def leader_address(self, leader: NodeId | None) -> str:
        """Of `leader`, or of whom this node takes for the leader; '' when unknown."""
        known = leader or self.status().leader
        return self._client_address(known) if known is not None else ""

    def require_leads(self) -> None:
        """Raises the turn-away that fits when another node leads, or none."""
        status = self.status()
        if status.role is not Role.LEADER:
            raise self.turn_away(NotProposed("NOT_LEADER", status.leader))

    def require_writes(self, *, stopping: bool = False) -> None:
        """Raises the turn-away that fits when this node takes no writes."""
        self.require_leads()
        if stopping:
            raise ShuttingDownError("this node is shutting down and hands leadership over")
        refusing = self.status().refusing_writes or ("DISK_FULL" if self.disk_low else "")
        if refusing:
            raise self.turn_away(NotProposed(refusing, self.status().node_id))

    def turn_away(self, outcome: NotProposed) -> TurnedAwayError:
        """An engine's refusal as an error of ours."""
        self.forget()  # the engine knows better than what was seen
        status = self.status()
        leader = outcome.leader or status.leader
        match outcome.reason:
            case "NOT_LEADER" if leader is None or leader == status.node_id:
                return NotLeaderError("this node does not lead, and knows no leader; nothing was written")
            case "NOT_LEADER":
                return NotLeaderError(f"{leader} leads, not {status.node_id}", self.leader_address(leader))
            case "DISK_FULL":
                return DiskFullError(_WORDS["DISK_FULL"])
            case "SHUTTING_DOWN":
                return ShuttingDownError("this node is shutting down")
            case _:
                return NoQuorumError(_WORDS.get(outcome.reason, outcome.reason))

    def note_commit(self, now_s: float, duration_us: int) -> None:
        """`now_s` is of Clock.monotonic()."""
        self.commit_times.add(now_s, duration_us)
