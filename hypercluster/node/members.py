"""Changes of the members, one step of one member each (QUO-1), and the promotion of learners that asked for it.

Owns: what the configuration looks like after each step, the words for a step that the engine refuses, and
`Promotion`, by which a leader makes a voter of a learner that was added with `promote`.
Never: decides whether a step is safe: the engine does (D-9, one at a time, caught up), by its own log and streams.
Invariants: asking for what holds already proposes nothing; a step names the incarnation it means, so that an answer
that came late never touches a later life of the same node (CL-15). The wish to be promoted is part of the
configuration, so the next leader knows it as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from hypercluster import limits
from hypercluster.errors import (
    ChangeInProgressError,
    DeadlineError,
    HyperClusterError,
    OutcomeUnknownError,
    StepRefusedError,
)
from hypercluster.node.standing import Standing
from hypercluster.raft.engine import (
    Clock,
    Committed,
    Engine,
    EngineStatus,
    NotProposed,
    ProposalOutcome,
    ReadOutcome,
    Unknown,
)
from hypercluster.values import Incarnation, Member, Membership, NodeId, Role, Suffrage

log = logging.getLogger(__name__)

T = TypeVar("T")
Step = Callable[[Membership], Membership | None]  # None: it holds already
_ELSEWHERE = ("NOT_LEADER", "DISK_FULL", "SHUTTING_DOWN", "NO_QUORUM", "STOPPED", "CLOCK_SKEW")


def adding(member: Member) -> Step:
    """As a learner. Raises StepRefusedError when the node is there in another life, or otherwise."""

    def step(now: Membership) -> Membership | None:
        found = now.find(member.node_id)
        if found is None:
            listed = tuple(sorted((*now.members, member), key=lambda m: m.node_id))
            return replace(now, members=listed)
        if found.incarnation != member.incarnation:
            raise StepRefusedError(
                f"{member.node_id} is a member with incarnation {found.incarnation.hex()}: remove that one first"
            )
        if found.address != member.address:
            raise StepRefusedError(f"{member.node_id} is a member already, at {found.address}")
        if found.suffrage is Suffrage.VOTER or found.promote == member.promote:
            return None
        return _with(now, replace(found, promote=member.promote))

    return step


def promoting(node_id: NodeId, incarnation: Incarnation) -> Step:
    def step(now: Membership) -> Membership | None:
        found = _present(now, node_id, incarnation)
        if found.suffrage is Suffrage.VOTER:
            return None
        return _with(now, replace(found, suffrage=Suffrage.VOTER, promote=False))

    return step


def removing(node_id: NodeId, incarnation: Incarnation) -> Step:
    def step(now: Membership) -> Membership | None:
        found = now.find(node_id)
        if found is None or found.incarnation != incarnation:
            return None
        return replace(now, members=tuple(m for m in now.members if m.node_id != node_id))

    return step


def _present(now: Membership, node_id: NodeId, incarnation: Incarnation) -> Member:
    found = now.find(node_id)
    if found is None:
        names = ", ".join(m.node_id for m in now.members)
        raise StepRefusedError(f"{node_id} is no member; the members are {names}")
    if found.incarnation != incarnation:
        raise StepRefusedError(
            f"{node_id} is a member with incarnation {found.incarnation.hex()}, not {incarnation.hex()}"
        )
    return found


def _with(now: Membership, member: Member) -> Membership:
    return replace(now, members=tuple(member if m.node_id == member.node_id else m for m in now.members))


class MemberChanges:
    """What an operator asks of the leader."""

    def __init__(self, engine: Engine, standing: Standing) -> None:
        self._engine = engine
        self._standing = standing

    async def take(self, step: Step, timeout_s: float) -> EngineStatus:
        """Returns once the step is committed, or holds already. Raises a turn-away, or what is not known."""
        self._standing.require_leads()
        now = self._engine.status().membership
        wanted = step(now)
        if wanted is None:
            return await self.confirmed(timeout_s)
        log.info("a change of the members is asked for", extra={"fields": {"members": _words(wanted)}})
        done: asyncio.Future[ProposalOutcome] = asyncio.get_running_loop().create_future()
        self._engine.change_membership(wanted, lambda outcome: None if done.done() else done.set_result(outcome))
        match await _in_time(done, timeout_s, "the change is not committed yet, and may still be"):
            case NotProposed() as refused:
                raise self.refusal(refused)
            case Unknown(reason):
                raise OutcomeUnknownError(f"the change may or may not hold ({reason}): see `hypercluster member list`")
            case Committed():
                return self._engine.status()

    async def confirmed(self, timeout_s: float) -> EngineStatus:
        """The leader's configuration, after a majority confirmed that it leads. One that is not committed yet is not
        shown as if it were: raises ChangeInProgressError."""
        done: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        self._engine.read_index(lambda outcome: None if done.done() else done.set_result(outcome))
        outcome = await _in_time(done, timeout_s, "no majority confirmed in time that this node leads")
        if isinstance(outcome, NotProposed):
            raise self._standing.turn_away(outcome)
        status = self._engine.status()
        if status.membership.index > status.commit_index:
            raise ChangeInProgressError("a change of the members is not committed yet")
        return status

    def refusal(self, refused: NotProposed) -> HyperClusterError:
        if refused.reason == "CHANGE_IN_PROGRESS":
            return ChangeInProgressError("the change before this one is not committed yet; nothing was changed")
        if refused.reason in _ELSEWHERE or refused.reason == "QUEUE_FULL":
            return self._standing.turn_away(refused)
        return StepRefusedError(f"{refused.reason}; nothing was changed")


async def _in_time(done: asyncio.Future[T], limit_s: float, words: str) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await done
    except TimeoutError:
        raise DeadlineError(words) from None


class Promotion:
    """`look` is called now and then. At most one promotion is on its way; a refused one is asked for again later."""

    def __init__(self, engine: Engine, standing: Standing, clock: Clock) -> None:
        self._engine = engine
        self._standing = standing
        self._clock = clock
        self._busy = False
        self._not_before_s = 0.0
        self._said = ""

    def look(self) -> None:
        status = self._standing.status()
        if status.role is not Role.LEADER or self._busy or self._clock.monotonic() < self._not_before_s:
            return
        learner = next((m for m in status.membership.members if m.promote and _is_near(status, m)), None)
        if learner is None:
            return
        wanted = promoting(learner.node_id, learner.incarnation)(status.membership)
        if wanted is not None:
            self._busy = True
            self._engine.change_membership(wanted, lambda outcome: self._ended(learner, outcome))

    def _ended(self, learner: Member, outcome: ProposalOutcome) -> None:
        self._busy = False
        self._not_before_s = self._clock.monotonic() + limits.PROMOTE_RETRY_MS / 1000
        words = f"{learner.node_id}: {outcome.reason if isinstance(outcome, NotProposed | Unknown) else 'promoted'}"
        if words != self._said:
            self._said = words
            log.info("a learner that has caught up", extra={"fields": {"outcome": words}})


def _is_near(status: EngineStatus, learner: Member) -> bool:
    """Its log lies within the bound; that it was placed in this term is the engine's to check."""
    peer = next((p for p in status.peers if p.node_id == learner.node_id), None)
    if peer is None or not peer.connected or not peer.match_index:
        return False
    return status.commit_index - peer.match_index <= limits.PROMOTE_LAG_ENTRIES_MAX


def _words(membership: Membership) -> str:
    return ", ".join(f"{m.node_id} {m.suffrage.name.lower()}" for m in membership.members)
