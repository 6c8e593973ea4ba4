"""An `Engine` whose every outcome a test decides: for the shell's own logic, which must hold whatever the engine
answers. Commits go through a real host when one is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from hypercluster.raft.engine import (
    Committed,
    EngineStatus,
    Host,
    NotProposed,
    ProposalOutcome,
    ReadOutcome,
    ReadReady,
    Unknown,
)
from hypercluster.state_machine.decoded import DecodedEntry
from hypercluster.values import NO_INDEX, Incarnation, Index, Member, Membership, NodeId, Role, Suffrage, Term

NODES = ("n1", "n2", "n3")


def three_members() -> Membership:
    members = tuple(Member(NodeId(n), Incarnation(n.encode() * 8), f"{n}:7802", Suffrage.VOTER) for n in NODES)
    return Membership(NO_INDEX, 3, members)


@dataclass
class Proposal:
    payload: bytes
    context: object
    done: Callable[[ProposalOutcome], None]

    @property
    def entry(self) -> DecodedEntry:
        assert isinstance(self.context, DecodedEntry)
        return self.context


class ScriptedEngine:
    def __init__(self) -> None:
        self.now = EngineStatus(
            node_id=NodeId("n1"),
            role=Role.LEADER,
            term=Term(3),
            leader=NodeId("n1"),
            last_index=NO_INDEX,
            durable_index=NO_INDEX,
            commit_index=NO_INDEX,
            applied_index=NO_INDEX,
            base_index=NO_INDEX,
            membership=three_members(),
            peers=(),
            refusing_writes="",
            clock_skew_ms=0,
        )
        self.proposals: deque[Proposal] = deque()
        self.reads: list[Callable[[ReadOutcome], None]] = []
        self.transfers: list[NodeId | None] = []
        self.changes: list[tuple[Membership, Callable[[ProposalOutcome], None]]] = []
        self.next_index = 1
        self.stamp_ns = 1_000
        self.stopped = False

    # --- what the product calls ---

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True

    def propose(self, payload: bytes, context: object, done: Callable[[ProposalOutcome], None]) -> None:
        self.proposals.append(Proposal(payload, context, done))

    def read_index(self, done: Callable[[ReadOutcome], None]) -> None:
        self.reads.append(done)

    def transfer_leadership(self, to: NodeId | None, done: Callable[[ProposalOutcome | None], None]) -> None:
        self.transfers.append(to)

    def change_membership(self, wanted: Membership, done: Callable[[ProposalOutcome], None]) -> None:
        self.changes.append((wanted, done))

    def next_stamp_ns(self, span: int) -> int:
        self.stamp_ns += span
        return self.stamp_ns - span

    def status(self) -> EngineStatus:
        return self.now

    def tick(self) -> None: ...

    def next_deadline(self) -> float:
        return float("inf")

    # --- what a test decides ---

    def follow(self, leader: str | None) -> None:
        self.now = replace(self.now, role=Role.FOLLOWER, leader=NodeId(leader) if leader else None)

    def refuse_writes(self, reason: str) -> None:
        self.now = replace(self.now, refusing_writes=reason)

    def commit(self, host: Host) -> Proposal:
        """Applies the oldest proposal through `host` and answers it."""
        proposal = self.proposals.popleft()
        index = Index(self.next_index)
        self.next_index += 1
        result = host.apply(index, self.now.term, proposal.payload, proposal.context)
        proposal.done(Committed(index, self.now.term, result))
        return proposal

    def lose(self) -> Proposal:
        proposal = self.proposals.popleft()
        proposal.done(Unknown("leadership was lost"))
        return proposal

    def refuse(self, reason: str, leader: str | None = None) -> Proposal:
        proposal = self.proposals.popleft()
        proposal.done(NotProposed(reason, NodeId(leader) if leader else None))
        return proposal

    def confirm_reads(self, index: int) -> None:
        waiting, self.reads = self.reads, []
        for done in waiting:
            done(ReadReady(Index(index), self.now.term))

    def fail_reads(self, reason: str, leader: str | None = None) -> None:
        waiting, self.reads = self.reads, []
        for done in waiting:
            done(NotProposed(reason, NodeId(leader) if leader else None))
