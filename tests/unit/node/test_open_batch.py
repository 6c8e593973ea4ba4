"""Which of the waiting runs go into the next batch (WS-30, WS-37)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.node.open_batch import OpenBatch, Ticket
from hypercluster.state_machine.decoded import DecodedGroup, Run
from hypercluster.values import ClientId, Index, Seq
from tests.unit.node.commands import CALLER, SCOPE, client

KIB = 1024


def ticket(lane: int, seq: int, *, size_bytes: int = 300, bulk: bool = False, ops: int = 1) -> Ticket:
    run = Run(ClientId(client(lane)), Seq(seq), Seq(0), Index(0), b"", b"", (b"",) * ops, ())
    group = DecodedGroup(b"", CALLER.principal, SCOPE, CALLER.worker, run)
    return Ticket(group, CALLER, lambda _: None, ops, size_bytes, bulk, False, float(seq))


def seqs(taken: list[Ticket]) -> list[int]:
    return [t.group.run.first_seq for t in taken]


def chunk_bytes(taken: list[Ticket]) -> int:
    return sum(t.size_bytes for t in taken if t.bulk)


@pytest.mark.req("WS-37")
def test_chunk_puts_take_their_share_and_no_more() -> None:
    batch = OpenBatch()
    for seq in range(64):
        batch.add(ticket(1, seq, size_bytes=64 * KIB, bulk=True))
    for seq in range(4):
        batch.add(ticket(2, seq))
    assert [t.group.run.client_id for t in batch.take(512, 1024 * KIB)] == [client(2)] * 4, "no put is among them"
    assert chunk_bytes(batch.take_puts(512, 1024 * KIB, 256 * KIB)) == 256 * KIB
    assert chunk_bytes(batch.take_puts(512, 1024 * KIB, 64 * KIB)) == 64 * KIB
    assert chunk_bytes(batch.take_puts(512, 1024 * KIB, 900 * KIB)) == 512 * KIB, "half of a batch"
    assert chunk_bytes(batch.take_puts(512, 256 * KIB, 256 * KIB)) == 128 * KIB, "of a small batch, half"
    assert len(batch.take_puts(1, 1024 * KIB, 256 * KIB)) == 1


@pytest.mark.req("WS-37")
def test_a_put_too_large_for_its_share_goes_alone() -> None:
    batch = OpenBatch()
    for seq in range(3):
        batch.add(ticket(1, seq, size_bytes=900 * KIB, bulk=True))
    batch.add(ticket(1, 3, size_bytes=64 * KIB, bulk=True))
    assert [seqs(batch.take_puts(512, 1024 * KIB, 256 * KIB)) for _ in range(4)] == [[0], [1], [2], [3]]


def test_a_run_behind_its_own_chunk_puts_stays_behind_them() -> None:
    batch = OpenBatch()
    assert not batch.add(ticket(1, 1, size_bytes=200 * KIB, bulk=True))
    assert not batch.add(ticket(1, 2, size_bytes=200 * KIB, bulk=True))
    assert not batch.add(ticket(1, 3, size_bytes=100 * KIB)), "it is no ordinary run"
    assert batch.ops == 0 and batch.take(512, 1024 * KIB) == []
    assert seqs(batch.take_puts(512, 1024 * KIB, 256 * KIB)) == [1]
    assert seqs(batch.take_puts(512, 1024 * KIB, 256 * KIB)) == [2, 3], "it takes nothing of the puts' share"
    assert batch.add(ticket(1, 4))


def test_a_chunk_put_behind_its_own_small_run_stays_behind_it() -> None:
    batch = OpenBatch()
    for seq in range(1, 400):
        batch.add(ticket(1, seq, ops=2))
    batch.add(ticket(1, 400, size_bytes=64 * KIB, bulk=True))
    assert seqs(batch.take(512, 1024 * KIB))[-1] == 256
    assert not batch.puts_wait() and batch.take_puts(512, 1024 * KIB, 256 * KIB) == []
    assert seqs(batch.take(512, 1024 * KIB))[-1] == 399
    assert batch.puts_wait() and seqs(batch.take_puts(512, 1024 * KIB, 256 * KIB)) == [400]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
@pytest.mark.req("WS-31", "WS-37")
def test_lanes_keep_their_order_and_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    batch = OpenBatch()
    lanes = dict.fromkeys(range(1, 5), 0)
    taken: list[Ticket] = []
    added = 0
    while added < 120 or len(taken) < added:
        if added < 120 and rng.random() < 0.7:
            lane = rng.choice(list(lanes))
            lanes[lane] += 1
            bulk = rng.random() < 0.4
            size_bytes = rng.choice([200, 64 * KIB, 700 * KIB, 2000 * KIB]) if bulk else rng.choice([200, 9 * KIB])
            batch.add(ticket(lane, lanes[lane], size_bytes=size_bytes, bulk=bulk, ops=rng.randint(1, 20)))
            added += 1
            continue
        share_bytes = rng.choice([64, 100, 256]) * KIB
        wait = bool(batch.ops), batch.puts_wait()
        assert any(wait) or len(taken) == added, f"seed {seed}: what waits can never go"
        if rng.random() < 0.5:
            got = batch.take(64, 1024 * KIB)
            assert bool(got) == wait[0] and not any(t.bulk for t in got), f"seed {seed}"
        else:
            got = batch.take_puts(64, 1024 * KIB, share_bytes)
            assert bool(got) == wait[1], f"seed {seed}"
            assert len(got) <= 1 or chunk_bytes(got) <= share_bytes, f"seed {seed}"
        if len(got) > 1:
            assert sum(t.ops for t in got) <= 64
            assert sum(t.size_bytes for t in got) <= 1024 * KIB
        taken += got
    for lane in lanes:
        order = [t.group.run.first_seq for t in taken if t.group.run.client_id == client(lane)]
        assert order == list(range(1, lanes[lane] + 1)), f"seed {seed}"
    assert batch.ops == batch.puts_bytes == 0
