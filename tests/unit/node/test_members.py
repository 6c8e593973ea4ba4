"""Steps of the membership, what a refusal becomes, and the promotion of learners (QUO-1)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hypercluster.errors import (
    ChangeInProgressError,
    DeadlineError,
    HyperClusterError,
    NotLeaderError,
    OutcomeUnknownError,
    StepRefusedError,
)
from hypercluster.limits import PROMOTE_LAG_ENTRIES_MAX, PROMOTE_RETRY_MS
from hypercluster.node.members import MemberChanges, Promotion, adding, promoting, removing
from hypercluster.node.standing import Standing
from hypercluster.raft.engine import Committed, NotProposed, PeerStatus, ProposalOutcome, Unknown
from hypercluster.raft.membership import decode_membership, encode_membership, step_refusal
from hypercluster.values import Incarnation, Index, Member, Membership, NodeId, Suffrage, Term
from tests.fakes.scripted_engine import NODES, ScriptedEngine, three_members

LIFE = Incarnation(b"x" * 16)
N4 = Member(NodeId("n4"), LIFE, "n4:7802", Suffrage.LEARNER)
EVERYONE = [NodeId(name) for name in (*NODES, "n4")]


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def boottime_ns(self) -> int:
        return int(self.now_s * 1e9)

    def wall_ns(self) -> int:
        return int(self.now_s * 1e9)


def taken(step_result: Membership | None) -> Membership:
    assert step_result is not None
    return step_result


@pytest.mark.req("QUO-1")
def test_each_step_is_one_that_the_engine_takes() -> None:
    now = three_members()
    with_n4 = taken(adding(N4)(now))
    assert step_refusal(now, with_n4, EVERYONE) == ""
    voting = taken(promoting(NodeId("n4"), LIFE)(with_n4))
    assert step_refusal(with_n4, voting, EVERYONE) == "" and len(voting.voters()) == 4
    assert step_refusal(voting, taken(removing(NodeId("n4"), LIFE)(voting)), EVERYONE) == ""
    wish = taken(adding(replace(N4, promote=True))(with_n4))
    assert step_refusal(with_n4, wish, EVERYONE) == "", "the wish alone is a step, too"
    found = taken(promoting(NodeId("n4"), LIFE)(wish)).find(NodeId("n4"))
    assert found is not None and not found.promote, "a voter has no such wish"


@pytest.mark.req("QUO-1")
def test_what_holds_already_is_no_step() -> None:
    now = taken(adding(N4)(three_members()))
    assert adding(N4)(now) is None
    assert removing(NodeId("n9"), LIFE)(now) is None
    assert removing(NodeId("n4"), Incarnation(b"y" * 16))(now) is None, "another life is not meant"
    assert promoting(NodeId("n1"), Incarnation(b"n1" * 8))(now) is None


@pytest.mark.req("QUO-1", "CL-15")
def test_a_step_for_another_life_or_nobody_is_refused_with_words() -> None:
    now = taken(adding(N4)(three_members()))
    with pytest.raises(StepRefusedError, match="remove that one first"):
        adding(replace(N4, incarnation=Incarnation(b"y" * 16)))(now)
    with pytest.raises(StepRefusedError, match="at n4:7802"):
        adding(replace(N4, address="elsewhere:1"))(now)
    with pytest.raises(StepRefusedError, match="no member; the members are n1, n2, n3, n4"):
        promoting(NodeId("n9"), LIFE)(now)
    with pytest.raises(StepRefusedError, match="with incarnation"):
        promoting(NodeId("n4"), Incarnation(b"y" * 16))(now)


@pytest.mark.req("QUO-1")
def test_the_wish_to_be_promoted_is_part_of_the_configuration() -> None:
    wanted = taken(adding(replace(N4, promote=True))(three_members()))
    assert decode_membership(encode_membership(wanted), Index(9)) == replace(wanted, index=Index(9))


async def changed(engine: ScriptedEngine, outcome: ProposalOutcome) -> HyperClusterError | None:
    """What a caller hears when the engine ends the change with `outcome`."""
    changes = MemberChanges(engine, Standing(engine, asyncio.get_running_loop(), lambda n: f"{n}:7801"))
    asked = asyncio.create_task(changes.take(adding(N4), 5.0))
    await asyncio.sleep(0)  # its first step is the proposal
    engine.changes.pop()[1](outcome)
    try:
        await asked
    except HyperClusterError as error:
        return error
    return None


@pytest.mark.req("QUO-1", "D-8")
async def test_every_end_of_a_change_says_what_is_known() -> None:
    engine = ScriptedEngine()
    assert await changed(engine, Committed(Index(4), Term(3), None)) is None
    assert isinstance(await changed(engine, Unknown("LEADERSHIP_LOST")), OutcomeUnknownError)
    assert isinstance(await changed(engine, NotProposed("CHANGE_IN_PROGRESS")), ChangeInProgressError)
    not_leader = await changed(engine, NotProposed("NOT_LEADER", NodeId("n2")))
    assert isinstance(not_leader, NotLeaderError) and not_leader.leader_hint == "n2:7801"
    words = await changed(engine, NotProposed("1 reachable voters would be left, 2 are needed"))
    assert isinstance(words, StepRefusedError) and "2 are needed; nothing was changed" in str(words)


async def test_a_change_that_takes_too_long_is_not_known() -> None:
    engine = ScriptedEngine()
    changes = MemberChanges(engine, Standing(engine, asyncio.get_running_loop(), lambda _: ""))
    with pytest.raises(DeadlineError):
        await changes.take(adding(N4), 0.01)
    engine.changes.pop()[1](Committed(Index(4), Term(3), None))  # comes too late, and hurts nobody


@pytest.mark.req("CL-10")
async def test_members_are_shown_only_as_a_majority_confirmed_them() -> None:
    engine = ScriptedEngine()
    changes = MemberChanges(engine, Standing(engine, asyncio.get_running_loop(), lambda _: ""))
    asked = asyncio.create_task(changes.confirmed(5.0))
    await asyncio.sleep(0)
    engine.now = replace(engine.now, membership=replace(three_members(), index=Index(8)), commit_index=Index(7))
    engine.confirm_reads(7)
    with pytest.raises(ChangeInProgressError):
        await asked


class Promoting:
    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.clock = HandClock()
        standing = Standing(self.engine, asyncio.get_running_loop(), lambda _: "")
        self.standing = standing
        self.promotion = Promotion(self.engine, standing, self.clock)

    def see(self, *, behind: int = 0, connected: bool = True, match: int | None = None, promote: bool = True) -> None:
        listed = taken(adding(replace(N4, promote=promote))(three_members()))
        commit = Index(50_000)
        at = Index(commit - behind if match is None else match)
        peer = PeerStatus(NodeId("n4"), Suffrage.LEARNER, connected, at, 0, 0, 0)
        self.engine.now = replace(self.engine.now, membership=listed, commit_index=commit, peers=(peer,))
        self.standing.forget()
        self.promotion.look()


@pytest.mark.req("QUO-1")
async def test_a_learner_is_promoted_once_it_is_near_and_only_if_it_was_asked_for() -> None:
    world = Promoting()
    world.see(behind=PROMOTE_LAG_ENTRIES_MAX + 1)
    world.see(connected=False)
    world.see(match=0)
    world.see(promote=False)
    assert not world.engine.changes
    world.see(behind=PROMOTE_LAG_ENTRIES_MAX)
    world.see()
    assert len(world.engine.changes) == 1, "one at a time"
    wanted, _ = world.engine.changes[0]
    assert [m.node_id for m in wanted.voters()] == ["n1", "n2", "n3", "n4"]


@pytest.mark.req("QUO-1")
async def test_a_refused_promotion_is_asked_for_again_later_by_whoever_leads() -> None:
    world = Promoting()
    world.see()
    world.engine.changes.pop()[1](NotProposed("CHANGE_IN_PROGRESS"))
    world.see()
    assert not world.engine.changes, "not at once"
    world.clock.now_s += PROMOTE_RETRY_MS / 1000
    world.engine.follow("n2")
    world.standing.forget()
    world.promotion.look()
    assert not world.engine.changes, "a follower asks for nothing"
    another = Promoting()  # the next leader knows the wish from the configuration alone
    another.see()
    assert len(another.engine.changes) == 1
