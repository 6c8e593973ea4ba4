"""What every engine must do, whatever stands behind the contract: the adapter over pysyncobj (one node and three) and
`FakeEngine`, without and with a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hypercluster.errors import ApplyFailedError, NotLeaderError
from hypercluster.limits import ENTRY_BYTES_MAX
from hypercluster.raft.engine import Committed, Engine, NotProposed, ProposalOutcome, ReadOutcome, ReadReady, Unknown
from hypercluster.raft.fake import FakeEngine
from hypercluster.values import Index, Member, Membership, NodeId, Role, Suffrage
from tests.engine_world.memory_wal import LogDisk, MemoryWal
from tests.engine_world.state import HistoryHost, StateDisk
from tests.engine_world.world import HandRunner, NodeClock, World, incarnation, members


@dataclass
class Bench:
    engine: Engine
    host: HistoryHost
    settle: Callable[[], None]
    fatal: Callable[[], BaseException | None]


def over_pysyncobj(names: str) -> Bench:
    world = World(names)
    world.elect("a")
    node = world.nodes["a"]
    return Bench(world.engines["a"], world.hosts["a"], lambda: world.run(0.2), lambda: node.fatal)


def fake(*, with_log: bool) -> Bench:
    host = HistoryHost(StateDisk(), lambda *_: None)
    runner = HandRunner()
    failed: list[BaseException] = []
    engine = FakeEngine(
        NodeId("a"), members("a"), host, NodeClock(World("z")), on_fatal=failed.append,
        wal=MemoryWal(LogDisk()) if with_log else None, syncs=runner if with_log else None,
    )  # fmt: skip

    def settle() -> None:
        for _ in range(4):
            engine.tick()
            runner.run_one()

    engine.start()
    settle()
    return Bench(engine, host, settle, lambda: failed[0] if failed else None)


KINDS: dict[str, Callable[[], Bench]] = {
    "one node": lambda: over_pysyncobj("a"),
    "three nodes": lambda: over_pysyncobj("abc"),
    "fake": lambda: fake(with_log=False),
    "fake with a log": lambda: fake(with_log=True),
}


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return KINDS[request.param]()


def propose(bench: Bench, payload: bytes, context: object = None) -> list[ProposalOutcome]:
    outcomes: list[ProposalOutcome] = []
    bench.engine.propose(payload, context, outcomes.append)
    return outcomes


def test_it_leads_and_says_so(bench: Bench) -> None:
    status = bench.engine.status()
    assert (status.role, status.leader, status.refusing_writes) == (Role.LEADER, "a", "")
    assert status.applied_index == status.commit_index == status.last_index == status.durable_index == 1


@pytest.mark.req("D-8")
def test_proposals_are_applied_in_order_with_their_context_and_answered_once(bench: Bench) -> None:
    outcomes = [propose(bench, b"\x10%d" % n, f"context {n}") for n in range(20)]
    assert all(not answered for answered in outcomes)  # never from inside the call
    bench.settle()
    assert [answered[0] for answered in outcomes] == [
        Committed(Index(2 + n), bench.engine.status().term, ("applied", 2 + n)) for n in range(20)
    ]
    assert all(len(answered) == 1 for answered in outcomes)
    assert bench.host.contexts == [f"context {n}" for n in range(20)]
    assert bench.host.applied_index == 21


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "MALFORMED"), (b"\x00\x00", "MALFORMED"), (b"\x10" + bytes(ENTRY_BYTES_MAX), "TOO_LARGE")],
)
def test_what_can_not_be_an_entry_is_turned_away(bench: Bench, payload: bytes, reason: str) -> None:
    outcomes = propose(bench, payload)
    assert [o.reason for o in outcomes if isinstance(o, NotProposed)] == [reason]
    assert bench.engine.status().last_index == 1


@pytest.mark.req("CL-10")
def test_a_read_comes_after_everything_acknowledged_before_it(bench: Bench) -> None:
    propose(bench, b"\x10x")
    bench.settle()
    reads: list[ReadOutcome] = []
    bench.engine.read_index(reads.append)
    bench.settle()
    assert len(reads) == 1
    assert isinstance(reads[0], ReadReady)
    assert reads[0].index >= 2
    assert bench.host.applied_index >= reads[0].index


@pytest.mark.req("D-5")
def test_stamps_grow_by_at_least_their_span(bench: Bench) -> None:
    first = bench.engine.next_stamp_ns(10**12)
    assert bench.engine.next_stamp_ns(1) >= first + 10**12


def test_a_host_that_is_not_ready_is_waited_for(bench: Bench) -> None:
    bench.host.is_ready = False
    outcomes = propose(bench, b"\x10x")
    bench.settle()
    assert outcomes == []
    bench.host.is_ready = True
    bench.settle()
    assert isinstance(outcomes[0], Committed)


@pytest.mark.req("CL-16")
def test_an_exception_in_apply_is_the_end(bench: Bench) -> None:
    bench.host.poison = b"bad"
    outcomes = propose(bench, b"\x10bad")
    bench.settle()
    assert isinstance(bench.fatal(), ApplyFailedError)
    assert isinstance(outcomes[0], Unknown)
    assert bench.host.applied_index == 1
    assert propose(bench, b"\x10x") and isinstance(propose(bench, b"\x10x")[0], NotProposed)


def test_a_callback_that_raises_harms_nobody(bench: Bench) -> None:
    def raises(_: ProposalOutcome) -> None:
        raise RuntimeError("gone")

    bench.engine.propose(b"\x10x", None, raises)
    after = propose(bench, b"\x10y")
    bench.settle()
    assert isinstance(after[0], Committed)
    assert [payload for _, _, payload in bench.host.history] == [b"\x10x", b"\x10y"]


def test_a_callback_may_propose_again(bench: Bench) -> None:
    later: list[ProposalOutcome] = []
    bench.engine.propose(b"\x10x", None, lambda _: bench.engine.propose(b"\x10y", None, later.append))
    bench.settle()
    bench.settle()
    assert isinstance(later[0], Committed)


@pytest.mark.req("QUO-1")
def test_members_change_one_step_at_a_time(bench: Bench) -> None:
    now = bench.engine.status().membership
    joined = Member(NodeId("z"), incarnation("z"), "z:1", Suffrage.LEARNER)
    wanted = Membership(Index(0), now.configured_voters, (*now.members, joined))
    outcomes: list[ProposalOutcome] = []
    bench.engine.change_membership(wanted, outcomes.append)
    bench.engine.change_membership(now, outcomes.append)
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], NotProposed)
    bench.settle()
    assert isinstance(outcomes[1], Committed)
    after = bench.engine.status().membership
    assert (after.members, after.index) == (wanted.members, outcomes[1].index)


def test_stop_answers_what_is_in_flight_and_is_idempotent(bench: Bench) -> None:
    outcomes = propose(bench, b"\x10x")
    reads: list[ReadOutcome] = []
    bench.engine.read_index(reads.append)
    bench.engine.stop()
    bench.engine.stop()
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], NotProposed | Unknown)
    assert [type(outcome) for outcome in reads] == [NotProposed]
    assert isinstance(propose(bench, b"\x10y")[0], NotProposed)
    with pytest.raises(NotLeaderError):
        bench.engine.next_stamp_ns(1)
    bench.engine.tick()
    assert bench.host.history == []
