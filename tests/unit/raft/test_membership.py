"""Configurations: S6, LRN, SELF, AMN, and the steps that may follow one another (QUO-1)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.errors import DamagedError
from hypercluster.raft.engine import Committed, NotProposed, ProposalOutcome
from hypercluster.raft.membership import MembershipLog, decode_membership, encode_membership, step_refusal
from hypercluster.raft.settings import EngineSettings
from hypercluster.values import Index, Member, Membership, NodeId, Role, Suffrage
from tests.engine_world.world import World, incarnation, members
from tests.known_bad.ablations import PRODUCT, build


def with_learner(now: Membership, name: str, index: int = 0, life: int = 0) -> Membership:
    added = Member(NodeId(name), incarnation(name, life), f"{name}:1", Suffrage.LEARNER)
    listed = tuple(sorted((*now.members, added), key=lambda m: m.node_id))
    return Membership(Index(index), now.configured_voters, listed)


def promoted(now: Membership, name: str, voters: int | None = None) -> Membership:
    listed = tuple(dataclasses.replace(m, suffrage=Suffrage.VOTER) if m.node_id == name else m for m in now.members)
    return Membership(Index(0), now.configured_voters if voters is None else voters, listed)


def without(now: Membership, name: str) -> Membership:
    return Membership(Index(0), now.configured_voters, tuple(m for m in now.members if m.node_id != name))


def change(world: World, name: str, wanted: Membership) -> list[ProposalOutcome]:
    outcomes: list[ProposalOutcome] = []
    world.engines[name].change_membership(wanted, outcomes.append)
    world.flush()
    world.run(0.3)
    return outcomes


@pytest.mark.req("QUO-1", "D-14")
@pytest.mark.parametrize("name", [PRODUCT, "LRN"])
def test_lrn_a_learner_is_not_counted(name: str) -> None:
    with build(name) as product:
        world = World("abcd", voters="abc")
        a = world.elect("a")
        world.commit("a", "x")
        assert isinstance(change(world, "a", with_learner(a.membership(), "d"))[0], Committed)
        world.isolate("b")
        world.isolate("c")
        lone = world.propose("a", "no quorum")
        world.run(0.3)
        assert (lone == []) == product, "a and the learner are not two voters"


@pytest.mark.req("QUO-1", "D-14")
def test_lrn_a_learner_replicates_does_not_vote_and_is_promoted_by_an_entry() -> None:
    world = World("abcd", voters="abc")
    a = world.elect("a")
    world.commit("a", "x")
    assert isinstance(change(world, "a", with_learner(a.membership(), "d"))[0], Committed)
    assert world.applied("d") == ["x"]
    world.isolate("b")
    world.isolate("c")
    lone = world.propose("a", "no quorum")
    world.run(0.3)
    assert lone == []
    world.rejoin("b")
    world.rejoin("c")
    world.run(1.0)
    leader = world.leader()
    now = leader.membership()
    assert isinstance(change(world, leader.node_id, promoted(now, "d"))[0], Committed)
    assert len(leader.membership().voters()) == 4
    assert leader.membership().quorum() == 3
    assert world.engines["d"].is_voter()


@pytest.mark.req("QUO-1")
@pytest.mark.parametrize("name", [PRODUCT, "S6"])
def test_s6_one_change_at_a_time(name: str) -> None:
    """Two pipelined steps make two majorities that need not meet."""
    with build(name) as product:
        world = World("abcde", voters="abc")
        a = world.elect("a")
        first: list[ProposalOutcome] = []
        second: list[ProposalOutcome] = []
        a.change_membership(with_learner(a.membership(), "d"), first.append)
        a.change_membership(promoted(with_learner(a.membership(), "e"), "e"), second.append)
        refused = bool(second) and isinstance(second[0], NotProposed)
        assert refused == product
        assert first == []


@pytest.mark.req("QUO-1")
def test_no_change_before_the_leaders_own_no_op_is_committed() -> None:
    world = World("abcd", voters="abc")
    world.elect("a")
    a = world.engines["a"]
    a._SyncObj__noopIDx = a.wal.last_index + 1
    assert change(world, "a", with_learner(a.membership(), "d"))[0] == NotProposed("CHANGE_IN_PROGRESS", NodeId("a"))


@pytest.mark.req("QUO-1")
@pytest.mark.parametrize("name", [PRODUCT, "S6c"])
def test_s6_a_restarted_node_finds_its_configuration_in_the_log(name: str) -> None:
    with build(name) as product:
        world = World("abcde", voters="abc")
        world.elect("a")
        for extra in "de":
            change(world, "a", with_learner(world.engines["a"].membership(), extra))
            change(world, "a", promoted(world.engines["a"].membership(), extra, 5))
        world.crash("b")  # nothing of its state was flushed: only the log knows
        world.restart("b")
        assert (len(world.engines["b"].membership().voters()) == 5) == product


@pytest.mark.req("QUO-1")
@pytest.mark.parametrize("name", [PRODUCT, "S6d"])
def test_s6_a_truncated_configuration_is_rolled_back(name: str) -> None:
    with build(name) as product:
        world = World("abcd", voters="abc")
        a = world.elect("a")
        world.swallowed |= {("a", "b"), ("a", "c")}
        a.change_membership(with_learner(a.membership(), "d"), lambda _: None)
        world.tick("a")
        world.isolate("a")
        assert len(a.membership().members) == 4  # effective when appended
        world.elect("b")
        world.commit("b", "x")
        world.rejoin("a")
        world.run(1.0)
        assert (a.membership() == world.engines["b"].membership()) == product


@pytest.mark.req("QUO-1", "CL-8")
@pytest.mark.parametrize("name", [PRODUCT, "S6b"])
def test_s6_a_checkpoint_stores_the_committed_configuration(name: str) -> None:
    with build(name) as product:
        world = World("abcd", voters="abc", settings=EngineSettings(checkpoint_every_entries=3))
        a = world.elect("a")
        for n in range(2):
            world.propose("a", f"w{n}")
        world.isolate("d")
        world.tick("a")
        for other in "bc":
            world.deliver("a", other, 10)
            world.tick(other)
        a.change_membership(with_learner(a.membership(), "d"), lambda _: None)
        for other in "bc":
            world.deliver(other, "a", 2)
        world.tick("a")
        latest = world.checkpoints["a"].latest()
        assert latest is not None
        assert a.membership().index > latest.index
        assert (latest.membership.find(NodeId("d")) is None) == product


@pytest.mark.req("QUO-1")
def test_who_is_about_to_be_removed_is_still_heard() -> None:
    """A node whose newest configuration lacks the leader must hear it, or it could never be told to drop it."""
    world = World()
    c = world.elect("c")
    world.isolate("c")
    c.change_membership(without(c.membership(), "b"), lambda _: None)  # refused or not, put it there
    world.tick("c")
    c.members.append(dataclasses.replace(without(c.membership(), "b"), index=Index(c.wal.last_index + 1)))
    c._rebuild_peers()
    assert NodeId("b") in c.peers
    assert not c.peers[NodeId("b")].is_voter
    assert {m.node_id for m in c.speaking_members().members} == {"a", "b", "c"}


@pytest.mark.req("QUO-1")
@pytest.mark.parametrize("name", [PRODUCT, "SELF"])
def test_self_a_leader_removes_itself_and_steps_down_when_that_is_committed(name: str) -> None:
    with build(name) as product:
        world = World("abcd", voters="abcd")
        a = world.elect("a")
        world.commit("a", "x")
        outcomes = change(world, "a", dataclasses.replace(without(a.membership(), "a"), configured_voters=3))
        assert isinstance(outcomes[0], Committed)
        assert (a.role() is not Role.LEADER) == product
        if product:
            world.run(2.0)
            new = world.leader()
            assert new.node_id != "a"
            world.commit(new.node_id, "y")
            assert a.role() is Role.FOLLOWER
            assert a.term() <= new.term()


@pytest.mark.req("CL-15", "QUO-1")
@pytest.mark.parametrize("name", [PRODUCT, "AMN"])
def test_amn_a_wiped_voter_does_not_vote(name: str) -> None:
    """b voted, lost its directory, and comes back empty under a new incarnation: its vote may not count again, and its
    acknowledgements may not either."""
    with build(name) as product:
        world = World()
        world.elect("a")
        world.commit("a", "x")
        world.crash("a")
        world.crash("b")
        node = world.nodes["b"]
        node.life += 1
        node.log.image = type(node.log.image)()
        node.state = type(node.state)()
        world.restart("b")
        world.run(4.0)
        led = any(engine.is_leader() for engine in world.engines.values())
        assert (not led) == product


@pytest.mark.req("CL-15", "QUO-1")
def test_amn_it_joins_again_as_a_learner_and_is_promoted() -> None:
    world = World()
    a = world.elect("a")
    world.commit("a", "x")
    world.crash("b")
    node = world.nodes["b"]
    node.life, node.log.image, node.state = 1, type(node.log.image)(), type(node.state)()
    world.restart("b")
    assert isinstance(change(world, "a", without(a.membership(), "b"))[0], Committed)
    node.initial = with_learner(a.membership(), "b", a.membership().index + 1, life=1)
    assert isinstance(change(world, "a", with_learner(a.membership(), "b", life=1))[0], Committed)
    world.crash("b")
    world.restart("b")
    world.run(1.0)
    assert world.applied("b") == ["x"]
    assert isinstance(change(world, "a", promoted(a.membership(), "b"))[0], Committed)
    assert world.engines["b"].is_voter()
    world.crash("a")
    world.run(4.0)
    assert world.leader().node_id in "bc"


@pytest.mark.req("QUO-1", "D-9")
def test_steps_that_are_refused_say_why() -> None:
    now = members("abc")
    two = with_learner(with_learner(now, "d"), "e")
    everyone = [NodeId(n) for n in "abcde"]
    assert "one member at a time" in step_refusal(now, two, everyone)
    assert "joins as a learner" in step_refusal(now, promoted(with_learner(now, "d"), "d"), everyone)
    assert "nothing would change" in step_refusal(now, now, everyone)
    assert "other incarnation" in step_refusal(now, with_learner(without(now, "b"), "b", life=1), everyone)
    assert "reachable voters" in step_refusal(now, without(now, "b"), [NodeId("a")])
    assert "2 are needed" in step_refusal(now, without(now, "b"), [NodeId("a")])
    four = members("abcd", voters=5)  # a majority of those left, and not of the five that are configured
    assert "3 are needed" in step_refusal(four, without(four, "d"), [NodeId("a"), NodeId("b")])
    assert step_refusal(now, without(now, "b"), [NodeId("a"), NodeId("c")]) == ""
    assert step_refusal(now, with_learner(now, "d"), everyone) == ""


@pytest.mark.req("QUO-1", "D-9")
@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(1, 5)), max_size=12))
def test_quorums_of_neighbouring_configurations_always_meet(steps: list[tuple[str, bool, int]]) -> None:
    now = members("abc")
    everyone = [NodeId(n) for n in "abcde"]
    for name, remove, voters in steps:
        present = now.find(NodeId(name))
        if present is None:
            wanted = with_learner(now, name)
        elif present.suffrage is Suffrage.LEARNER and not remove:
            wanted = promoted(now, name, voters)
        else:
            wanted = without(now, name)
        if step_refusal(now, wanted, everyone):
            continue
        union = {m.node_id for m in (*now.voters(), *wanted.voters())}
        assert now.quorum() + wanted.quorum() > len(union)
        assert wanted.quorum() <= len(wanted.voters())
        now = wanted


def test_a_configuration_survives_its_encoding() -> None:
    wanted = with_learner(members("abc", voters=5), "d")
    payload = encode_membership(wanted)
    assert decode_membership(payload, Index(0)) == wanted
    assert payload == encode_membership(decode_membership(payload, Index(9)))


def test_the_log_of_configurations_goes_forward_and_back() -> None:
    base = members("abc")
    known = MembershipLog(base)
    first = dataclasses.replace(with_learner(base, "d"), index=Index(5))
    second = dataclasses.replace(promoted(first, "d"), index=Index(9))
    known.append(first)
    known.append(second)
    assert known.current is second
    assert (known.at(Index(4)), known.at(Index(5)), known.at(Index(8))) == (base, first, first)
    assert known.truncate_from(Index(9))
    assert not known.truncate_from(Index(7))
    assert known.current is first
    known.forget_below(Index(6))
    assert known.at(Index(1)) is first


@pytest.mark.req("QUO-1", "CL-8")
def test_a_checkpoint_takes_a_configuration_along_that_was_never_committed() -> None:
    """a alone got c's removal. Then c leads, and a's log is replaced by a checkpoint: with the removal left in force
    a would not listen to c, and would count a quorum of its own."""
    world = World("abcde", settings=EngineSettings(checkpoint_every_entries=10, log_keep_entries=2))
    b = world.elect("b")
    b.change_membership(without(b.membership(), "c"), lambda _: None)
    b.tick()
    for other in "cde":
        world.drop("b", other)
    world.deliver("b", "a", 10)
    a = world.engines["a"]
    assert a.membership().find(NodeId("c")) is None
    world.isolate("a")
    world.isolate("b")
    c = world.elect("c")
    for n in range(40):
        world.commit("c", f"w{n}")
    world.rejoin("a")
    world.disconnect("a", "b")
    world.run(1.0)
    assert world.hosts["a"].installed == 1
    assert a.membership() == c.membership()
    world.commit("c", "heard")
    world.run(0.2)
    assert world.applied("a")[-1] == "heard"


@pytest.mark.req("QUO-1", "CL-15")
@pytest.mark.parametrize("voters", ["abc", "a"])
def test_a_log_without_its_checkpoint_brings_no_older_members_back(voters: str) -> None:
    """Its directory was removed by hand. A node that is the cluster itself has nobody to re-seed it, and goes on."""
    world = World(voters + "d", voters=voters, settings=EngineSettings(checkpoint_every_entries=10, log_keep_entries=2))
    a = world.elect("a")
    a.change_membership(with_learner(a.membership(), "d"), lambda _: None)
    world.run(0.2)
    for n in range(40):
        world.commit("a", f"w{n}")
    assert a.wal.base_index > a.membership().index > 0
    world.crash("a")
    world.nodes["a"].state.latest = None
    if voters == "a":
        world.restart("a")
        world.elect("a")
    else:
        with pytest.raises(DamagedError, match="rejoin"):
            world.restart("a")
