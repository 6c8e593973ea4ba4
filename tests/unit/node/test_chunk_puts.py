"""What chunk puts leave to others (WS-37): the pace alone, and the proposer under a virtual clock.

The pipeline of the last tests is a model, not a measurement: entries go through it one after the other, each takes what
one takes and more for every chunk in it. What an import does on a real machine, tests/benchmarks measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hypercluster.limits import BATCH_CHUNK_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, CHUNK_BYTES_MAX, MIB
from hypercluster.node.chunk_pace import CROWDED_S, PAUSE_MAX_S, ChunkPace
from hypercluster.node.words import Verdict
from hypercluster.raft.engine import Committed, ProposalOutcome
from hypercluster.state_machine.decoded import DecodedEntry
from hypercluster.values import Index
from tests.unit.node.commands import CALLER, chunk, client, hub_set, submit
from tests.unit.node.test_proposer import Node

CHUNK = bytes(CHUNK_BYTES_MAX)
PUTS_LANE = 1


def put(seq: int, lane: int = PUTS_LANE) -> bytes:
    return submit(client(lane), seq, chunk(CHUNK), workspace_id=bytes(16))


def chunks_of(entry: DecodedEntry) -> int:
    return sum(len(group.submit) > len(CHUNK) for group in entry.groups)


def batch(pace: ChunkPace, now_s: float, took_s: float, chunk_bytes: int) -> float:
    """One batch from its proposal to its answer."""
    began = pace.began(now_s, chunk_bytes)
    pace.ended(now_s + took_s, began, counts=True)
    return now_s + took_s


# --- the pace ---------------------------------------------------------------------------------------


def test_alone_puts_have_the_pipeline_for_themselves() -> None:
    pace = ChunkPace()
    for _ in range(BATCHES_IN_FLIGHT_MAX):
        assert pace.share_bytes(0.0) == BATCH_CHUNK_BYTES_MAX
        pace.began(0.0, BATCH_CHUNK_BYTES_MAX)
    assert pace.share_bytes(0.0) == 0 and pace.due_s(0.0) is None


@pytest.mark.req("WS-37")
def test_beside_others_one_batch_of_puts_is_in_flight_and_a_pause_follows_it() -> None:
    pace = ChunkPace()
    now_s = batch(pace, 0.0, 0.002, 0)
    pace.others_sent(now_s)
    assert pace.share_bytes(now_s) == BATCH_CHUNK_BYTES_MAX, "nothing is known of what puts take"
    began = pace.began(now_s, 64_000)
    assert pace.share_bytes(now_s) == 0
    assert pace.due_s(now_s) == now_s + CROWDED_S, "then nobody else has sent for long enough"
    pace.ended(now_s + 0.004, began, counts=True)
    now_s += 0.004
    assert pace.share_bytes(now_s) == 0
    due_s = pace.due_s(now_s)
    assert due_s == pytest.approx(now_s + 0.002), "as long as a batch of others takes"
    assert due_s is not None and pace.share_bytes(due_s) > 0


@pytest.mark.parametrize("per_chunk_ms", [0.1, 0.5, 1.0, 2.0, 50.0])
def test_the_share_is_what_doubles_the_time_of_a_batch(per_chunk_ms: float) -> None:
    pace = ChunkPace()
    now_s = batch(pace, 0.0, 0.002, 0)
    for _ in range(100):
        pace.others_sent(now_s)
        now_s += 1e-6 + PAUSE_MAX_S
        chunks = max(1, pace.share_bytes(now_s) // CHUNK_BYTES_MAX)
        now_s = batch(pace, now_s, 0.002 + chunks * per_chunk_ms / 1e3, chunks * CHUNK_BYTES_MAX)
    pace.others_sent(now_s)
    fit = 2.0 / per_chunk_ms * CHUNK_BYTES_MAX
    expected = min(max(fit, CHUNK_BYTES_MAX), BATCH_CHUNK_BYTES_MAX)
    assert pace.share_bytes(now_s + PAUSE_MAX_S + 1e-6) == pytest.approx(expected, rel=0.01)


def test_a_stall_keeps_puts_waiting_for_a_bounded_time_only() -> None:
    pace = ChunkPace()
    now_s = batch(pace, 0.0, 30.0, 0)
    pace.others_sent(now_s)
    now_s = batch(pace, now_s, 30.0, CHUNK_BYTES_MAX)
    pace.others_sent(now_s)
    assert pace.due_s(now_s) == pytest.approx(now_s + PAUSE_MAX_S)


def test_a_refusal_says_nothing_about_how_long_batches_take() -> None:
    pace = ChunkPace()
    batch(pace, 0.0, 0.004, 0)
    pace.ended(2.0, pace.began(1.0, 0), counts=False)
    assert pace.plain_s == 0.004


# --- the proposer -----------------------------------------------------------------------------------


@pytest.mark.req("WS-37")
def test_small_commands_overtake_chunk_puts_of_another_lane() -> None:
    node = Node()
    for seq in range(1, 41):
        node.send(put(seq))
    node.send(submit(client(2), 1, hub_set("a")))
    node.turns.settle()
    first, second = node.engine.proposals
    assert [g.run.client_id for g in first.entry.groups] == [client(2)], "it came last"
    assert chunks_of(second.entry) == 4 and len(second.entry.groups) == 4
    node.send(submit(client(2), 2, hub_set("a")))
    node.send(submit(client(3), 1, hub_set("a")))
    node.commit()
    assert len(node.engine.proposals) == 2, "one batch of puts at a time"
    assert [g.run.client_id for g in node.engine.proposals[1].entry.groups] == [client(2), client(3)]


def test_puts_alone_fill_the_pipeline() -> None:
    node = Node()
    for seq in range(1, 41):
        node.send(put(seq))
    node.turns.settle()
    assert [chunks_of(p.entry) for p in node.engine.proposals] == [4, 4]
    node.commit()
    assert [chunks_of(p.entry) for p in node.engine.proposals] == [4, 4]
    while node.engine.proposals:
        node.commit()
    assert [seq for seq, _ in node.flat()] == list(range(1, 41))


def test_a_command_behind_puts_of_its_own_lane_comes_after_them() -> None:
    node = Node()
    for seq in range(1, 7):
        node.send(put(seq))
    node.send(submit(client(PUTS_LANE), 7, hub_set("a")))
    node.send(submit(client(2), 1, hub_set("b")))
    while node.turns.settle() or node.engine.proposals:
        node.commit()
        node.turns.pass_time(PAUSE_MAX_S)
    assert [seq for seq, _ in node.flat()] == [1, *range(1, 8)]


class Pipeline:
    """Entries one after the other: `entry_s` each, and `chunk_s` more for every chunk."""

    def __init__(self, node: Node, entry_s: float, chunk_s: float) -> None:
        self._node = node
        self._entry_s = entry_s
        self._chunk_s = chunk_s
        self._free_s = 0.0
        self._next_index = 1
        self.chunks: list[int] = []  # of each entry that held any

    def propose(self, payload: bytes, context: object, done: Callable[[ProposalOutcome], None]) -> None:
        assert isinstance(context, DecodedEntry)
        chunks = chunks_of(context)
        self.chunks += [chunks] * (chunks > 0)
        turns, term = self._node.turns, self._node.engine.now.term
        self._free_s = max(self._free_s, turns.now_s) + self._entry_s + chunks * self._chunk_s

        def finish() -> None:
            index = Index(self._next_index)
            self._next_index += 1
            done(Committed(index, term, self._node.host.apply(index, term, payload, context)))

        turns.call_at(self._free_s, finish)


class Importer:
    """Keeps the leader supplied with chunk puts."""

    def __init__(self, node: Node, waiting: int) -> None:
        self._node = node
        self._seq = 0
        self.answered = 0
        for _ in range(waiting):
            self._send()

    def _send(self) -> None:
        self._seq += 1
        self._node.proposer.submit(put(self._seq), CALLER, self._take)

    def _take(self, verdicts: Sequence[Verdict]) -> None:
        self.answered += sum(v.ops for v in verdicts)
        self._node.turns.call_soon(self._send)


class Asker:
    """One small command after the other."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seq = 0
        self._asked_s = 0.0
        self.took_s: list[float] = []

    def ask(self) -> None:
        self._seq += 1
        self._asked_s = self._node.turns.now_s
        self._node.proposer.submit(submit(client(2), self._seq, hub_set("a")), CALLER, self._take)

    def _take(self, _: Sequence[Verdict]) -> None:
        self.took_s.append(self._node.turns.now_s - self._asked_s)
        # Not in step with the batches of puts: a fifth of a millisecond to almost two until the next.
        thinks_s = 0.0002 + len(self.took_s) * 0.00037 % 0.0017
        self._node.turns.call_at(self._node.turns.now_s + thinks_s, self.ask)


@pytest.mark.req("WS-37")
@pytest.mark.parametrize("chunk_ms", [0.1, 0.4, 1.0, 1.9])
def test_beside_an_import_a_command_takes_at_most_three_times_as_long_as_alone(
    chunk_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    pipeline = Pipeline(node, 0.002, chunk_ms / 1e3)
    monkeypatch.setattr(node.engine, "propose", pipeline.propose)
    asker = Asker(node)
    asker.ask()
    node.turns.pass_time(0.2)
    alone_s = max(asker.took_s)
    assert alone_s == pytest.approx(0.002)
    importer = Importer(node, 64)
    node.turns.pass_time(0.2)  # until it is known what puts take
    asker.took_s.clear()
    begun_s, before = node.turns.now_s, importer.answered
    node.turns.pass_time(0.5)
    assert max(asker.took_s) < 3 * alone_s
    assert len(asker.took_s) > 50
    mib_per_s = (importer.answered - before) * CHUNK_BYTES_MAX / MIB / (node.turns.now_s - begun_s)
    assert mib_per_s > 4, "and puts go on"
    assert max(pipeline.chunks) <= BATCH_CHUNK_BYTES_MAX // CHUNK_BYTES_MAX
