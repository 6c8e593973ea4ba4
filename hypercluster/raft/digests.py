"""Comparing state digests (CL-17): who has diverged, found by counting.

Owns: on a leader, one question at a time ("what is your digest at index k?"), the voters' answers and the verdict;
on every node, the last question heard and the last statement (a digest that a majority confirmed).
Never: reads state; stops anything. The engine acts on the verdict.
Invariants: a verdict against a node needs a quorum that agrees on another digest at the same index. A mismatch
without such a quorum blames nobody, and the cluster refuses writes until one is found.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from hypercluster.values import Digest, Index, NodeId

ASK_AGAIN_S = 1.0  # a settled or unanswered question makes room for the next after this


class Verdict(Enum):
    OPEN = "open"  # not enough answers, no disagreement among those there
    AGREED = "agreed"  # a quorum agrees, and this node with it
    MINORITY = "minority"  # a quorum agrees on something else than this node
    SPLIT = "split"  # answers differ and no quorum agrees


@dataclass(slots=True)
class Question:
    index: Index
    asked_s: float
    answers: dict[NodeId, Digest] = field(default_factory=dict)
    confirmed: Digest | None = None

    def verdict(self, own: NodeId, quorum: int) -> Verdict:
        counts = Counter(self.answers.values())
        digest, count = max(counts.items(), key=lambda item: (item[1], item[0]), default=(Digest(b""), 0))
        if count >= quorum:
            self.confirmed = digest
            return Verdict.AGREED if self.answers.get(own, digest) == digest else Verdict.MINORITY
        return Verdict.SPLIT if len(counts) > 1 else Verdict.OPEN


class DigestWatch:
    def __init__(self) -> None:
        self.question: Question | None = None  # on a leader
        self.asked_index = Index(0)  # on a follower: the leader's latest question
        self._statement: tuple[Index, Digest] | None = None

    def reset(self) -> None:
        """A new term: questions of the old one are void."""
        self.question = None
        self.asked_index = Index(0)

    # --- leader ----------------------------------------------------------------------------------------

    def may_ask(self, applied: Index, now_s: float) -> bool:
        question = self.question
        if question is None:
            return applied > 0
        if len(set(question.answers.values())) > 1 and question.confirmed is None:
            return False  # a disagreement stays on the table until it is settled
        return now_s - question.asked_s >= ASK_AGAIN_S and applied > question.index

    def ask(self, index: Index, own: NodeId, digest: Digest, now_s: float) -> None:
        self.question = Question(index, now_s, {own: digest})

    def answer(self, node_id: NodeId, index: int, digest: bytes) -> bool:
        """True when it told something new about the question that is open."""
        question = self.question
        if question is None or index != question.index or not digest or node_id in question.answers:
            return False
        question.answers[node_id] = Digest(digest)
        return True

    # --- every node ------------------------------------------------------------------------------------

    def heard(self, index: int, digest: bytes) -> None:
        """From the leader: a question, and a statement when it carries a digest."""
        if index:
            self.asked_index = Index(index)
            if digest:
                self._statement = (Index(index), Digest(digest))

    def statement_due(self, applied: Index) -> tuple[Index, Digest] | None:
        """The last confirmed digest, once this node has applied as far; then it is used up."""
        statement = self._statement
        if statement is None or statement[0] > applied:
            return None
        self._statement = None
        return statement
