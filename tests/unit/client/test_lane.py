"""The lane against a simple model of D-7 over a bad network: every seed is a run, and prints itself when it fails."""

from __future__ import annotations

import random
from collections import deque

import pytest

from hypercluster.client.lane import Lane
from hypercluster.client.lane_types import Intent, LaneSettings, NeedChunks, Redirect, Send, Settled, SlowDown, Verdict
from hypercluster.limits import BATCH_CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, PRINCIPAL_BYTES_MAX
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.values import ClientId
from tests.unit.client.lane_model import ModelCluster, ModelServer

MS = 1_000_000
SEEDS = range(150)


class Run:
    """One lane, one cluster, one virtual clock."""

    def __init__(self, seed: int, *, dedupe: bool = True, fault_rate: float = 0.15, lane_type: type[Lane] = Lane):
        self.rng = random.Random(seed)
        self.seed = seed
        self.cluster = ModelCluster(dedupe=dedupe)
        self.server = ModelServer(self.cluster, self.rng, fault_rate)
        self.settings = LaneSettings(window=64, deadline_ns=3_000 * MS, no_leader_ns=700 * MS, gather_commands=8)
        self.lane = lane_type(lambda: ClientId(self.rng.randbytes(16)), self.rng, settings=self.settings)
        self.now = 0
        self.acks: deque[tuple[int, command_pb.Acks]] = deque()
        self.commands: dict[int, bytes] = {}
        self.settled: dict[int, Settled] = {}
        self.bases: dict[tuple[bytes, int], set[tuple[int, bytes]]] = {}
        self.connect_at: int | None = 0

    def step(self) -> None:
        self.now += self.rng.randrange(1, 20) * MS
        if self.connect_at is None and not self.lane.pending and self.rng.random() < 0.1:
            self.lane.disconnected(self.now)
            self.connect_at = self.now + 1000 * MS
        if self.connect_at is not None and self.now >= self.connect_at:
            self.lane.connected(self.now)
            self.connect_at = None
        while self.acks and self.acks[0][0] <= self.now and self.connect_at is None:
            self.lane.acks(self.now, self.acks.popleft()[1])
        if self.rng.random() < 0.05:
            self.lane.recall(self.rng.randrange(len(self.commands) + 1))
        for instruction in self.lane.advance(self.now, self.rng.choice((1, 3, 1000))):
            if isinstance(instruction, Settled):
                assert instruction.ticket not in self.settled, f"settled twice, seed {self.seed}"
                self.settled[instruction.ticket] = instruction
            elif isinstance(instruction, Send) and self.connect_at is None:
                self.send(instruction)

    def send(self, send: Send) -> None:
        submit = command_pb.Submit.FromString(send.payload)
        assert (submit.first_seq, len(submit.commands)) == (send.first_seq, send.count)
        for i, command in enumerate(submit.commands):
            self.bases.setdefault((submit.client_id, submit.first_seq + i), set()).add((submit.basis, command))
        answers = self.server.receive(send.payload)
        if answers is None:
            self.acks.clear()
            self.connect_at = self.now + self.rng.choice((50, 400, 1500)) * MS
            self.lane.disconnected(self.now)
        else:
            self.acks.extend((self.now + self.rng.randrange(10) * MS, a) for a in answers)

    def go(self, commands: int) -> None:
        given = 0
        while given < commands or self.lane.pending:
            for _ in range(self.rng.randrange(12)):
                if given < commands and self.lane.has_room:
                    given += 1
                    command = b"c%d" % given + (b"!" if self.rng.random() < 0.1 else b"")
                    self.commands[self.lane.submit(self.now, command)] = command
            self.step()
        for payload in self.server.stragglers:
            self.server.judge(payload)

    def check(self) -> None:
        applied = [command for _, _, command in self.cluster.applied]
        note = f"seed {self.seed}"
        assert len(set(applied)) == len(applied), f"applied twice, {note}"
        assert set(self.settled) == set(self.commands), f"not settled, {note}"
        for lane in {client_id for client_id, _, _ in self.cluster.applied}:
            order = [int(c.strip(b"c!")) for client_id, _, c in self.cluster.applied if client_id == lane]
            assert order == sorted(order), f"applied out of order, {note}"
        for ticket, settled in self.settled.items():
            done = self.commands[ticket] in set(applied)
            match settled.verdict:
                case Verdict.OK:
                    assert done, f"acknowledged and lost: {settled}, {note}"
                case Verdict.NOT_DONE | Verdict.REFUSED:
                    assert not done, f"applied though {settled.verdict}, {note}"
                case Verdict.UNKNOWN:
                    pass
        for key, sent in self.bases.items():
            assert len(sent) == 1, f"a key was sent with other bytes or another basis: {key} {sent}, {note}"


@pytest.mark.req("D-7", "D-8")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_outcome_is_wrong_over_a_bad_network(seed: int) -> None:
    run = Run(seed, fault_rate=random.Random(seed).choice((0.0, 0.05, 0.2, 0.6)))
    run.go(commands=150)
    run.check()


def test_every_outcome_is_met_by_the_seeds() -> None:
    met: set[Verdict] = set()
    for seed in range(60):
        run = Run(seed, fault_rate=0.6)
        run.go(commands=60)
        met |= {s.verdict for s in run.settled.values()}
    assert met == set(Verdict)


@pytest.mark.req("D-7")
def test_the_checks_find_a_cluster_that_does_not_dedupe() -> None:
    found = 0
    for seed in range(20):
        run = Run(seed, dedupe=False)
        run.go(commands=150)
        try:
            run.check()
        except AssertionError:
            found += 1
    assert found >= 15


@pytest.mark.req("D-8")
def test_the_checks_find_a_lane_that_calls_an_unknown_definite() -> None:
    class Careless(Lane):
        def disconnected(self, now_ns: int) -> None:
            super().disconnected(now_ns)
            for entry in self._entries.values():
                entry.tainted = False

    found = 0
    for seed in range(40):
        run = Run(seed, lane_type=Careless, fault_rate=0.6)
        run.go(commands=100)
        try:
            run.check()
        except AssertionError:
            found += 1
    assert found >= 5


def quiet(**settings: int) -> tuple[Lane, int]:
    ids = iter(range(1, 100))
    lane = Lane(lambda: ClientId(bytes([next(ids)]) * 16), random.Random(1), settings=LaneSettings(**settings))
    lane.connected(0)
    return lane, 0


def sends(lane: Lane, now: int) -> list[command_pb.Submit]:
    return [command_pb.Submit.FromString(i.payload) for i in lane.advance(now) if isinstance(i, Send)]


def answer(submit: command_pb.Submit, reason: int = 0, **fields: object) -> command_pb.Acks:
    count = len(submit.commands)
    return command_pb.Acks(
        client_id=submit.client_id,
        first_seq=submit.first_seq,
        count=count,
        reason=[reason] * count,
        **fields,  # type: ignore[arg-type]
    )


def establish(lane: Lane) -> None:
    lane.submit(0, b"first")
    (submit,) = sends(lane, 0)
    lane.acks(0, answer(submit, raft_index=5))
    assert any(isinstance(i, Settled) for i in lane.advance(0))


@pytest.mark.req("D-7")
def test_an_unknown_lane_sends_one_message_until_it_is_judged() -> None:
    lane, now = quiet()
    lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.submit(now, b"b")
    assert sends(lane, now) == []
    lane.acks(now, answer(first, raft_index=9))
    (second,) = sends(lane, now)
    assert (second.first_seq, second.floor, second.basis) == (2, 1, 9)


def test_a_message_carries_whatever_is_ready() -> None:
    lane, now = quiet()
    establish(lane)
    for i in range(300):
        lane.submit(now, b"%d" % i)
    runs = sends(lane, now)
    assert [len(r.commands) for r in runs] == [256, 44]
    assert [r.first_seq for r in runs] == [2, 258]


def test_commands_of_different_workspaces_do_not_share_a_message() -> None:
    lane, now = quiet()
    establish(lane)
    lane.submit(now, b"a", b"w" * 16)
    lane.submit(now, b"b", b"w" * 16)
    lane.submit(now, b"c", b"v" * 16)
    assert [(r.workspace_id, len(r.commands)) for r in sends(lane, now)] == [(b"w" * 16, 2), (b"v" * 16, 1)]


def test_a_message_stays_below_its_size() -> None:
    lane, now = quiet(batch_bytes=1000)
    establish(lane)
    for _ in range(5):
        lane.submit(now, bytes(400))
    lane.submit(now, bytes(5000))
    assert [len(r.commands) for r in sends(lane, now)] == [2, 2, 1, 1]


@pytest.mark.req("WS-37")
def test_chunk_puts_go_one_a_message_and_wait_for_none_to_gather() -> None:
    """A leader takes whole messages: what travels together, it can not part when others wait."""
    lane, now = quiet()
    establish(lane)
    content = bytes(CHUNK_BYTES_MAX)
    put = command_pb.Command(chunk_put=file_pb.ChunkPut(hash=bytes(32), content=content)).SerializeToString()
    for _ in range(10):
        lane.submit(now, put, b"w" * 16)
    lane.submit(now, b"small", b"w" * 16)
    messages = sends(lane, now)
    assert [len(m.commands) for m in messages] == [1] * 9 + [2], "a small one finds room beside a put"
    four = sum(m.ByteSize() for m in messages[:4]) + 4 * 3 * PRINCIPAL_BYTES_MAX
    assert four <= BATCH_CHUNK_BYTES_MAX, "four share a batch"


@pytest.mark.req("D-7")
def test_a_lane_keeps_at_most_its_window() -> None:
    lane, now = quiet()
    for _ in range(1024):
        assert lane.has_room
        lane.submit(now, b"x")
    assert not lane.has_room


@pytest.mark.req("D-8")
def test_an_unknown_outcome_is_sent_again_as_it_was() -> None:
    lane, now = quiet()
    establish(lane)
    lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.known(77)
    lane.disconnected(now)
    lane.connected(now + MS)
    (again,) = sends(lane, now + MS)
    assert again == first
    lane.acks(now + MS, answer(again, command_pb.REASON_OUTCOME_UNKNOWN))
    assert sends(lane, now + MS) == []
    (third,) = sends(lane, now + 1000 * MS)
    assert third == first


@pytest.mark.req("D-8", "WS-4")
def test_an_unknown_outcome_stays_unknown_when_time_is_up_and_nothing_overtakes_it() -> None:
    lane, now = quiet()
    establish(lane)
    old_id = lane.client_id
    ticket = lane.submit(now, b"a")
    sends(lane, now)
    lane.disconnected(now)
    behind = lane.submit(now + MS, b"b")
    settled = [i for i in lane.advance(now + 30_001 * MS) if isinstance(i, Settled)]
    assert [(s.ticket, s.verdict) for s in settled] == [(ticket, Verdict.UNKNOWN), (behind, Verdict.NOT_DONE)]
    assert settled[0].intent == Intent(old_id, 2, 5)
    assert lane.client_id != old_id


@pytest.mark.req("WS-3")
def test_without_a_leader_a_command_that_was_never_accepted_fails_after_five_seconds() -> None:
    lane, now = quiet()
    lane.disconnected(now)
    ticket = lane.submit(now, b"a")
    assert lane.next_deadline_ns() == 5000 * MS
    assert lane.advance(4_999 * MS) == []
    (settled,) = lane.advance(5_000 * MS)
    assert isinstance(settled, Settled)
    assert (settled.ticket, settled.verdict, settled.reason) == (ticket, Verdict.NOT_DONE, command_pb.REASON_NO_QUORUM)


@pytest.mark.req("WS-3")
def test_a_command_that_was_sent_rides_out_an_election() -> None:
    lane, now = quiet()
    establish(lane)
    lane.submit(now, b"a")
    sends(lane, now)
    lane.disconnected(now)
    assert lane.advance(20_000 * MS) == []
    lane.connected(20_000 * MS)
    (again,) = sends(lane, 20_000 * MS)
    lane.acks(20_000 * MS, answer(again, raft_index=8))
    (settled,) = lane.advance(20_000 * MS)
    assert isinstance(settled, Settled)
    assert settled.verdict is Verdict.OK


def test_a_turn_away_is_retried_after_the_pause_it_names() -> None:
    lane, now = quiet()
    establish(lane)
    lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.acks(now, answer(first, command_pb.REASON_RATE_LIMITED, retry_after_ms=200))
    (slow,) = lane.advance(now)
    assert slow == SlowDown(200 * MS)
    assert sends(lane, 199 * MS) == []
    assert len(sends(lane, 200 * MS)) == 1


def test_a_follower_names_the_leader() -> None:
    lane, now = quiet()
    lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.acks(now, answer(first, command_pb.REASON_NOT_LEADER, leader_hint="n2:1"))
    assert lane.advance(now) == [Redirect("n2:1")]


@pytest.mark.req("D-7")
def test_a_gap_is_filled_from_the_first_that_was_turned_away() -> None:
    lane, now = quiet()
    establish(lane)
    lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.submit(now, b"b")
    (second,) = sends(lane, now)
    lane.acks(now, answer(first, command_pb.REASON_QUEUE_FULL, retry_after_ms=5))
    lane.acks(now, answer(second, command_pb.REASON_SEQ_GAP))
    assert sends(lane, now) == []
    (again,) = sends(lane, now + 100 * MS)
    assert (again.first_seq, list(again.commands)) == (2, [b"a", b"b"])


def test_one_malformed_command_does_not_take_its_neighbours_along() -> None:
    run = Run(3, fault_rate=0.0)
    commands = [b"c1", b"c2", b"malformed", b"c3", b"c4"]
    for command in commands:
        run.commands[run.lane.submit(0, command)] = command
    while run.lane.pending:
        run.step()
    verdicts = [run.settled[t].verdict for t in sorted(run.settled)]
    assert verdicts == [Verdict.OK, Verdict.OK, Verdict.NOT_DONE, Verdict.OK, Verdict.OK]
    assert run.settled[3].reason == command_pb.REASON_MALFORMED


@pytest.mark.req("WS-32")
def test_missing_chunks_hold_the_lane_until_they_were_sent() -> None:
    lane, now = quiet()
    establish(lane)
    ticket = lane.submit(now, b"a")
    (first,) = sends(lane, now)
    missing = file_pb.FileAck(missing=[b"h" * 32])
    lane.acks(now, answer(first, command_pb.REASON_CHUNKS_MISSING, file=[missing]))
    assert lane.advance(now) == [NeedChunks(ticket, (b"h" * 32,))]
    assert lane.advance(now + 50 * MS) == []
    lane.chunks_sent(ticket)
    (again,) = sends(lane, now + 50 * MS)
    assert again == first


def test_only_what_was_not_sent_is_recalled() -> None:
    lane, now = quiet(messages_in_flight=1)
    establish(lane)
    sent = lane.submit(now, b"a")
    (first,) = sends(lane, now)
    waiting = lane.submit(now, b"b")
    lane.recall(sent)
    lane.recall(waiting)
    assert lane.advance(now) == []
    lane.acks(now, answer(first, raft_index=6))
    ends = {i.ticket: i.verdict for i in lane.advance(now) if isinstance(i, Settled)}
    assert ends == {sent: Verdict.OK, waiting: Verdict.NOT_DONE}


def test_a_key_the_cluster_forgot_is_unknown() -> None:
    lane, now = quiet()
    establish(lane)
    ticket = lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.acks(now, answer(first, command_pb.REASON_UNKNOWN))
    (settled,) = lane.advance(now)
    assert isinstance(settled, Settled)
    assert (settled.ticket, settled.verdict) == (ticket, Verdict.UNKNOWN)


@pytest.mark.req("D-8")
def test_a_reason_nobody_knows_is_not_taken_for_a_no() -> None:
    lane, now = quiet()
    establish(lane)
    lane.submit(now, b"a")
    (first,) = sends(lane, now)
    lane.acks(now, answer(first, 999))
    (settled,) = lane.advance(now + 31_000 * MS)
    assert isinstance(settled, Settled)
    assert settled.verdict is Verdict.UNKNOWN


def test_every_reason_of_the_contract_has_an_answer() -> None:
    from hypercluster.client.lane_types import ANSWERS

    assert set(ANSWERS) == {v.number for v in command_pb.Reason.DESCRIPTOR.values}


@pytest.mark.req("D-7", "WS-12")
def test_an_intent_of_another_run_is_sent_as_it_was() -> None:
    intent = Intent(b"i" * 16, 7, 42)
    lane = Lane(lambda: ClientId(b"n" * 16), random.Random(1), resume=intent)
    lane.known(99)
    lane.connected(0)
    lane.submit(0, b"a")
    lane.submit(0, b"b")
    (first,) = sends(lane, 0)
    assert (first.client_id, first.first_seq, first.floor, first.basis) == (b"i" * 16, 7, 6, 42)
    assert list(first.commands) == [b"a"]
    lane.acks(0, answer(first, raft_index=100))
    (second,) = sends(lane, 0)
    assert (second.first_seq, second.basis, list(second.commands)) == (8, 100, [b"b"])


@pytest.mark.req("D-8", "WS-4")
@pytest.mark.parametrize("reason", [0, command_pb.REASON_NO_QUORUM, command_pb.REASON_MALFORMED])
def test_an_intent_of_another_run_is_never_called_not_done(reason: int) -> None:
    """The copy that the other run sent may be applied yet, whatever this run's own is answered."""
    lane = Lane(lambda: ClientId(b"n" * 16), random.Random(1), resume=Intent(b"i" * 16, 7, 42))
    ticket = lane.submit(0, b"a")
    if reason:
        lane.connected(0)
        (sent,) = sends(lane, 0)
        lane.acks(0, answer(sent, reason))
    lane.recall(ticket)
    found = [s for at in (6_000 * MS, 30_001 * MS) for s in lane.advance(at) if isinstance(s, Settled)]
    assert [(s.ticket, s.verdict) for s in found] == [(ticket, Verdict.UNKNOWN)]
    assert found[0].intent == Intent(b"i" * 16, 7, 42)
