"""Admission, batching and answers, over a real machine and an engine whose outcomes the test decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hypercluster.errors import MalformedError
from hypercluster.limits import ENTRY_BYTES_MAX, SEQ_HOLD_MS
from hypercluster.log.admission import admit
from hypercluster.node.answers import REASONS
from hypercluster.node.apply_loop import ApplyLoop
from hypercluster.node.dedupe import stored_answer
from hypercluster.node.proposer import WINDOW_MAX_S, Admission, Proposer, ProposerSettings
from hypercluster.node.rate_limit import RateSettings
from hypercluster.node.standing import Standing
from hypercluster.node.words import Caller, Verdict
from hypercluster.raft.engine import NotProposed, ProposalOutcome
from hypercluster.raft.proposals import call_safely
from hypercluster.state_machine.machine import Machine
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import Scope
from tests.fakes.scripted_engine import ScriptedEngine
from tests.fakes.virtual_turns import VirtualTurns
from tests.unit.node.commands import CALLER, SCOPE, client, fsync, hub_set, submit
from tests.unit.node.memory_state import MemoryState, no_fanout

FAST = RateSettings(ops_per_s=1_000_000, burst_ops=1_000_000, bytes_per_s=1 << 40)


class Node:
    """The leader's write path without a network or a disk."""

    def __init__(self, settings: ProposerSettings | None = None) -> None:
        self.turns = VirtualTurns()
        self.engine = ScriptedEngine()
        self.metrics = Metrics()
        self.state = MemoryState()
        self.machine = Machine(self.state)
        self.standing = Standing(self.engine, self.turns, lambda node_id: f"{node_id}:7801")
        self.host = ApplyLoop(
            self.machine,
            self.state,
            self.state,
            no_fanout(self.turns, self.metrics),
            self.turns,
            self.turns,
            self.metrics,
            on_applied=lambda _: None,
            wake=lambda: None,
        )
        self.proposer = Proposer(
            self.engine,
            self.standing,
            Admission(
                admit, self.machine.last_seq, lambda group: stored_answer(self.machine.lane(group.run.client_id), group)
            ),
            self.turns,
            self.turns,
            self.metrics,
            settings or ProposerSettings(rate=FAST),
        )
        self.answers: list[Sequence[Verdict]] = []

    def send(self, message: bytes, caller: Caller = CALLER) -> None:
        self.proposer.submit(message, caller, self.answers.append)

    def batches(self) -> list[int]:
        """Commands in each batch that is in flight."""
        return [p.entry.command_count for p in self.engine.proposals]

    def commit(self) -> None:
        self.engine.commit(self.host)
        self.turns.settle()

    def flat(self) -> list[tuple[int, int]]:
        """(seq, reason) of every answer, in the order given."""
        out = []
        for verdicts in self.answers:
            for v in verdicts:
                reasons = v.reasons or [0] * v.ops
                out += [(v.first_seq + i, reason) for i, reason in enumerate(reasons)]
        return out


@pytest.mark.req("WS-30")
def test_a_lone_writer_does_not_wait_for_a_window() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    assert node.batches() == []
    node.turns.turn()
    assert node.batches() == [1]


@pytest.mark.req("WS-30")
def test_messages_of_one_turn_share_a_batch_and_load_makes_batches() -> None:
    node = Node()
    for lane in range(1, 6):
        node.send(submit(client(lane), 1, hub_set("a")))
    node.turns.settle()
    assert node.batches() == [5]
    for lane in range(1, 4):
        node.send(submit(client(lane), 2, hub_set("b")))
    node.turns.settle()
    assert node.batches() == [5], "something is in flight: the window is open"
    node.turns.pass_time(0.0011)
    assert node.batches() == [5, 3]
    node.send(submit(client(4), 2, hub_set("c")))
    node.turns.pass_time(1.0)
    assert node.batches() == [5, 3], "two are in flight: no third"
    node.commit()
    assert node.batches() == [3, 1]
    node.commit()
    node.commit()
    assert sorted(node.flat()) == sorted([(1, 0)] * 5 + [(2, 0)] * 4)


@pytest.mark.req("WS-30")
def test_the_window_is_as_long_as_batches_take_up_to_a_bound() -> None:
    node = Node()
    for seq in range(1, 60):  # each takes 4 ms
        node.send(submit(client(1), seq, hub_set("a")))
        node.turns.settle()
        node.turns.pass_time(0.004)
        node.commit()
    node.send(submit(client(1), 60, hub_set("a")))
    node.turns.settle()
    node.send(submit(client(2), 1, hub_set("b")))
    node.turns.pass_time(0.0035)
    assert node.batches() == [1], "the one in flight may end any moment: what arrives until then goes together"
    node.turns.pass_time(0.0006)
    assert node.batches() == [1, 1], "it is late: the next does not wait for it"
    node.turns.pass_time(30.0)  # a stall
    node.commit()
    node.commit()
    node.send(submit(client(1), 61, hub_set("a")))
    node.turns.settle()
    node.send(submit(client(2), 2, hub_set("b")))
    node.turns.pass_time(WINDOW_MAX_S + 0.0001)
    assert node.batches() == [1, 1]


@pytest.mark.req("CL-13", "D-8")
def test_an_engine_that_refuses_at_once_ends_every_waiting_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers within `propose`, so a queue of many small batches must not become a deep stack."""
    node = Node(ProposerSettings(ops_max=1, rate=FAST))
    lanes = 2_000
    for lane in range(1, lanes + 1):
        node.send(submit(client(lane), 1, hub_set("a")))
    assert node.batches() == [1, 1]

    def refuse(payload: bytes, context: object, done: Callable[[ProposalOutcome], None]) -> None:
        call_safely(done, NotProposed("NOT_LEADER"))

    monkeypatch.setattr(node.engine, "propose", refuse)
    node.engine.refuse("NOT_LEADER")
    node.engine.refuse("NOT_LEADER")
    assert sorted(node.flat()) == [(1, REASONS["NOT_LEADER"])] * lanes
    assert node.proposer.pending_ops == 0


@pytest.mark.req("WS-30", "CL-13")
def test_a_batch_of_small_messages_counts_the_names_of_who_sent_them() -> None:
    node = Node(ProposerSettings(ops_max=4_096, rate=FAST))
    caller = Caller("client:" + "p" * 128, Scope("o" * 128, "q" * 128), "w" * 128)
    for lane in range(1, 5_001):
        node.send(submit(client(lane), 1, hub_set("a")), caller)
    while node.engine.proposals:
        assert len(node.engine.proposals[-1].payload) <= ENTRY_BYTES_MAX
        node.commit()
        node.turns.pass_time(0.01)
    assert node.flat() == [(1, 0)] * 5_000


@pytest.mark.req("WS-30")
def test_a_full_batch_closes_before_its_window() -> None:
    node = Node(ProposerSettings(ops_max=10, rate=FAST))
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.send(submit(client(2), 1, *[hub_set(str(i)) for i in range(10)]))
    assert node.batches() == [1, 10]


@pytest.mark.req("WS-26", "WS-30")
def test_an_fsync_closes_its_batch_at_once() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.send(submit(client(2), 1, fsync(), workspace_id=bytes(16)))
    assert node.batches() == [1, 1]


@pytest.mark.req("WS-12")
def test_a_gap_is_held_then_answered_and_nothing_of_it_is_proposed() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.commit()
    node.send(submit(client(1), 3, hub_set("c")))
    node.turns.pass_time(SEQ_HOLD_MS / 1000 - 0.01)
    assert node.batches() == [] and len(node.answers) == 1
    assert node.proposer.pending_ops == 1
    node.turns.pass_time(0.02)
    assert node.flat() == [(1, 0), (3, REASONS["SEQ_GAP"])]
    assert node.batches() == [] and node.proposer.pending_ops == 0
    node.send(submit(client(1), 2, hub_set("b")))
    node.send(submit(client(1), 3, hub_set("c")))
    node.turns.settle()
    node.commit()
    assert node.flat()[2:] == [(2, 0), (3, 0)], "the key stayed free"


@pytest.mark.req("WS-12", "WS-31")
def test_a_gap_that_closes_goes_on_in_order() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.send(submit(client(1), 3, hub_set("c")))
    node.send(submit(client(1), 2, hub_set("b")))
    node.turns.settle()
    while node.engine.proposals:
        node.commit()
    assert node.flat() == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.req("D-3")
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda n: n.engine.follow("n2"), "NOT_LEADER"),
        (lambda n: n.engine.follow(None), "NOT_LEADER"),
        (lambda n: n.engine.refuse_writes("DISK_FULL"), "DISK_FULL"),
        (lambda n: n.engine.refuse_writes("CLOCK_SKEW"), "NO_QUORUM"),
        (lambda n: n.proposer.stop(lambda: None), "SHUTTING_DOWN"),
    ],
)
def test_a_turn_away_proposes_nothing_and_leaves_the_key_free(spoil, reason) -> None:  # type: ignore[no-untyped-def]
    node = Node()
    spoil(node)
    node.send(submit(client(1), 1, hub_set("a"), hub_set("b")))
    node.turns.settle()
    assert node.flat() == [(1, REASONS[reason]), (2, REASONS[reason])]
    assert not node.engine.proposals and node.proposer.pending_ops == 0
    assert node.machine.last_seq(client(1)) is None  # type: ignore[arg-type]


@pytest.mark.req("CL-13")
def test_not_leader_carries_the_leaders_client_address() -> None:
    node = Node()
    node.engine.follow("n2")
    node.send(submit(client(1), 1, hub_set("a")))
    assert node.answers[0][0].leader_hint == "n2:7801"


@pytest.mark.req("D-3")
def test_a_malformed_command_is_answered_and_one_without_an_address_raises() -> None:
    node = Node()
    node.send(submit(client(1), 5, hub_set("a", "{not json")))
    assert node.flat() == [(5, REASONS["MALFORMED"])]
    with pytest.raises(MalformedError):
        node.send(b"\xff\xff\xff")
    with pytest.raises(MalformedError):
        node.send(submit(b"short", 1, hub_set("a")))


@pytest.mark.req("CL-13", "WS-34")
def test_the_queue_is_bounded_in_commands_and_bytes() -> None:
    node = Node(ProposerSettings(pending_ops_max=10, pending_bytes_max=5_000, rate=FAST))
    for seq in range(1, 11):
        node.send(submit(client(1), seq, hub_set("a")))
    node.send(submit(client(2), 1, hub_set("a")))
    assert node.flat() == [(1, REASONS["QUEUE_FULL"])]
    node.turns.settle()
    while node.engine.proposals:
        node.commit()
    node.answers.clear()
    node.send(submit(client(2), 1, hub_set("a", '"' + "x" * 4_000 + '"')))
    node.send(submit(client(3), 1, hub_set("a", '"' + "x" * 4_000 + '"')))
    assert node.flat() == [(1, REASONS["QUEUE_FULL"])]


@pytest.mark.req("WS-34")
def test_the_rate_is_per_principal_and_says_when_to_come_back() -> None:
    node = Node(ProposerSettings(rate=RateSettings(ops_per_s=500, burst_ops=100)))
    for seq in range(1, 101):
        node.send(submit(client(1), seq, hub_set("a")))
    node.send(submit(client(1), 101, hub_set("a")))
    verdict = node.answers[0][0]
    assert verdict.reasons == (REASONS["RATE_LIMITED"],) and 1 <= verdict.retry_after_ms <= 4
    node.send(submit(client(2), 1, hub_set("a")), Caller("client:bob", SCOPE, "bob"))
    assert len(node.answers) == 1, "bob is not held to alice's rate"


@pytest.mark.req("WS-34")
def test_the_rate_is_a_worker_s_whatever_it_calls_its_clients_and_a_refusal_costs_the_same() -> None:
    settings = RateSettings(ops_per_s=500, burst_ops=100, quarantine_after=3, quarantine_ms=4_000)
    node = Node(ProposerSettings(rate=settings))
    refused = hub_set("a")
    refused.hub.expected_version = 9
    for lane in range(1, 101):
        node.send(submit(client(lane), 1, refused))
    node.turns.settle()
    while node.engine.proposals:
        node.commit()
    assert {reason for _, reason in node.flat()} == {REASONS["PRECONDITION_FAILED"]}
    node.answers.clear()
    told = [node.answers[-1][0] for lane in range(200, 205) if node.send(submit(client(lane), 1, refused)) is None]
    assert {v.reasons for v in told} == {(REASONS["RATE_LIMITED"],)}, "a hundred refusals used the burst up"
    assert told[-1].retry_after_ms >= 4_000 and "quarantined for" in told[-1].message
    assert node.metrics.quarantines._value.get() == 1


@pytest.mark.req("D-8")
def test_a_lost_outcome_is_unknown_and_the_same_key_finds_what_happened() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    lost = node.engine.lose()
    assert node.flat() == [(1, REASONS["OUTCOME_UNKNOWN"])]
    # It was committed all the same, by the next leader.
    node.host.apply(1, 3, lost.payload, None)  # type: ignore[arg-type]
    node.engine.next_index = 2
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    assert node.answers[-1][0].raft_index == 1, "the stored answer"
    assert not node.engine.proposals, "answered from what apply stored"


@pytest.mark.req("D-3", "D-7")
def test_the_fast_path_answers_the_same_bytes_only() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.commit()
    first = node.answers[0][0]
    node.send(submit(client(1), 1, hub_set("a")))
    assert node.answers[1][0]._replace(term=first.term) == first and not node.engine.proposals
    node.send(submit(client(1), 1, hub_set("a", '"other"')))
    node.turns.settle()
    node.commit()
    assert node.flat()[-1] == (1, REASONS["IDEMPOTENCY_CONFLICT"]), "judged by apply"


def test_not_proposed_is_definite_and_frees_the_lane() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.engine.refuse("NOT_LEADER", "n3")
    verdict = node.answers[0][0]
    assert (verdict.reasons, verdict.leader_hint) == ((REASONS["NOT_LEADER"],), "n3:7801")
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.commit()
    assert node.flat()[-1] == (1, 0)


def test_a_sink_that_fails_takes_nobody_elses_answer() -> None:
    node = Node()

    def broken(_: Sequence[Verdict]) -> None:
        raise RuntimeError("gone")

    node.proposer.submit(submit(client(1), 1, hub_set("a")), CALLER, broken)
    node.send(submit(client(2), 1, hub_set("a")))
    node.turns.settle()
    node.commit()
    assert node.flat() == [(1, 0)]
    assert node.proposer.pending_ops == 0


@pytest.mark.req("OPS-6")
def test_stop_drains_what_is_in_flight_and_says_when_idle() -> None:
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    node.send(submit(client(1), 3, hub_set("c")))
    idle: list[bool] = []
    node.proposer.stop(lambda: idle.append(True))
    assert node.flat() == [(3, REASONS["SHUTTING_DOWN"])] and not idle
    node.commit()
    assert node.flat()[-1] == (1, 0) and idle == [True]
