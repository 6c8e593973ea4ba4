"""What must hold after every event of a simulated run (CH-3), told from outside the system.

Owns: the global record of what was led, applied, acknowledged and answered. It learns of things through the seams
(frames on the network, calls into the host, answers to clients) and through disks, never from the engine's opinion
of itself.
Never: repairs, tolerance. A `Violation` ends the run, and its text names the seed's facts.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypercluster.values import Index, NodeId, Term


class ViolationError(AssertionError):
    """A safety or liveness rule did not hold. `rule` is a short stable name."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class AppliedEntry:
    term: Term
    payload: bytes
    digest: bytes
    by: NodeId


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told of one command: where it was judged and as what."""

    raft_index: int
    reason: int
    position: int  # server_seq or log_index it took; 0 for a refusal


class Invariants:
    """One per run."""

    def __init__(self) -> None:
        self.leaders: dict[Term, NodeId] = {}
        self.applied: dict[Index, AppliedEntry] = {}
        self._acknowledged: dict[tuple[NodeId, bytes], tuple[Term, Index]] = {}
        self.answers: dict[tuple[bytes, int], Answer] = {}
        self.positions: dict[tuple[bytes, int], tuple[bytes, int]] = {}  # (space, position) -> (client, seq)
        self.highest_answer = 0  # the highest Raft index any client was told
        self.acknowledged_ok = 0
        self.checks = 0

    def leads(self, node: NodeId, term: Term) -> None:
        """One leader a term (election safety)."""
        self.checks += 1
        other = self.leaders.setdefault(term, node)
        if other != node:
            raise ViolationError("two leaders", f"term {term}: {other} and {node}")

    def applies(self, node: NodeId, index: Index, term: Term, payload: bytes, digest: bytes) -> None:
        """State machine safety: every node applies the same entry at an index, to the same state."""
        self.checks += 1
        first = self.applied.get(index)
        if first is None:
            self.applied[index] = AppliedEntry(term, payload, digest, node)
            return
        if first.term != term or first.payload != payload:
            raise ViolationError(
                "divergent entries",
                f"index {index}: {first.by} applied term {first.term}, {node} term {term}, "
                f"payloads {'equal' if first.payload == payload else 'differ'}",
            )
        if first.digest != digest:
            raise ViolationError("divergent state", f"index {index}: digests of {first.by} and {node} differ")

    def acknowledges(self, node: NodeId, incarnation: bytes, term: Term, index: Index) -> None:
        """CL-5: within a term the index a node has acknowledged never falls."""
        self.checks += 1
        last = self._acknowledged.get((node, incarnation))
        if last is not None:
            if term < last[0]:
                raise ViolationError("term fell", f"{node} acknowledged in term {last[0]}, then in {term}")
            if term == last[0] and index < last[1]:
                return  # an acknowledgement of less is no retraction: what counts is the log below
        self._acknowledged[(node, incarnation)] = (term, max(index, last[1] if last and last[0] == term else Index(0)))

    def promised(self, node: NodeId, incarnation: bytes, term: Term) -> Index:
        """The highest index this life of the node has acknowledged in `term`."""
        last = self._acknowledged.get((node, incarnation))
        return last[1] if last is not None and last[0] == term else Index(0)

    def holds(self, node: NodeId, incarnation: bytes, term: Term, durable_index: Index) -> None:
        """What was acknowledged in the present term is still durable there."""
        self.checks += 1
        wanted = self.promised(node, incarnation, term)
        if durable_index < wanted:
            raise ViolationError(
                "acknowledged index fell", f"{node} acknowledged {wanted} in term {term}, holds {durable_index}"
            )

    def answered(self, client: bytes, seq: int, space: bytes, answer: Answer) -> None:
        """One answer a key, one key a position: nothing is applied twice (D-7)."""
        self.checks += 1
        self.highest_answer = max(self.highest_answer, answer.raft_index)
        first = self.answers.setdefault((client, seq), answer)
        if first != answer:
            raise ViolationError("two answers", f"client {client.hex()[:8]} seq {seq}: {first} and {answer}")
        if answer.position:
            key = (space, answer.position)
            owner = self.positions.setdefault(key, (client, seq))
            if owner != (client, seq):
                raise ViolationError("one position, two commands", f"{space.hex()[:8]} {answer.position}")
        if answer.reason == 0:
            self.acknowledged_ok += 1

    def check_answers(self, found: dict[tuple[bytes, int], tuple[bytes, int]]) -> None:
        """At the end: `found` is what the op logs hold, (space, position) -> (client, seq), read from a replica.

        Every acknowledged command stands there, at the position it was told; no command stands there twice; the
        positions of a space have no gap."""
        seen: dict[tuple[bytes, int], tuple[bytes, int]] = {}
        for place, key in sorted(found.items()):
            if key in seen:
                raise ViolationError(
                    "applied twice", f"client {key[0].hex()[:8]} seq {key[1]} at {seen[key]} and {place}"
                )
            seen[key] = place
        for place, key in sorted(self.positions.items()):
            if found.get(place) != key:
                raise ViolationError(
                    "acknowledged write lost", f"client {key[0].hex()[:8]} seq {key[1]} was told {place[1]}"
                )
        highest: dict[bytes, int] = {}
        count: dict[bytes, int] = {}
        for space, position in found:
            highest[space] = max(highest.get(space, 0), position)
            count[space] = count.get(space, 0) + 1
        for space, top in highest.items():
            if count[space] != top:
                raise ViolationError("gap in the order", f"{space.hex()[:8]}: {count[space]} of {top} positions")
