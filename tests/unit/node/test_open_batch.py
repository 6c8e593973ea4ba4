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


@pytest.mark.req("WS-37")
def test_chunk_puts_take_their_share_and_no_more() -> None:
    batch = OpenBatch()
    for seq in range(64):
        batch.add(ticket(1, seq, size_bytes=64 * KIB, bulk=True))
    for seq in range(4):
        batch.add(ticket(2, seq))
    taken = batch.take(512, 1024 * KIB)
    chunk_bytes = sum(t.size_bytes for t in taken if t.bulk)
    assert [t.group.run.client_id for t in taken[:4]] == [client(2)] * 4, "small ones go first"
    assert chunk_bytes == 256 * KIB
    alone = sum(t.size_bytes for t in batch.take(512, 1024 * KIB))
    assert alone == 256 * KIB, "what comes next would wait for all of it"
    batch.add(ticket(2, 5))
    assert sum(t.size_bytes for t in batch.take(512, 256 * KIB) if t.bulk) == 128 * KIB, "of a small batch, half"


@pytest.mark.req("WS-37")
def test_chunk_puts_get_their_share_under_a_flood_of_others() -> None:
    batch = OpenBatch()
    for seq in range(2_000):
        batch.add(ticket(2, seq, size_bytes=1 * KIB))
    for seq in range(20):
        batch.add(ticket(1, seq, size_bytes=64 * KIB, bulk=True))
    taken = batch.take(4_096, 1024 * KIB)
    assert sum(t.size_bytes for t in taken if t.bulk) == 256 * KIB
    assert sum(t.size_bytes for t in taken if not t.bulk) == 768 * KIB


@pytest.mark.req("WS-37")
def test_a_put_too_large_for_its_share_goes_alone_in_every_second_batch_at_most() -> None:
    batch = OpenBatch()
    for seq in range(8):
        batch.add(ticket(1, seq, size_bytes=900 * KIB, bulk=True))
    for seq in range(3_000):
        batch.add(ticket(2, seq, size_bytes=1 * KIB))
    kinds = []
    for _ in range(4):
        taken = batch.take(512, 1024 * KIB)
        kinds.append({t.bulk for t in taken})
        assert len(taken) == 1 or kinds[-1] == {False}
    assert kinds == [{True}, {False}, {True}, {False}]


def test_a_run_behind_its_own_chunk_puts_stays_behind_them() -> None:
    batch = OpenBatch()
    batch.add(ticket(1, 1, size_bytes=700 * KIB, bulk=True))
    batch.add(ticket(1, 2, size_bytes=700 * KIB, bulk=True))
    batch.add(ticket(1, 3))
    assert seqs(batch.take(512, 1024 * KIB)) == [1]
    assert seqs(batch.take(512, 1024 * KIB)) == [2, 3]


def test_a_chunk_put_behind_its_own_small_run_stays_behind_it() -> None:
    batch = OpenBatch()
    for seq in range(1, 400):
        batch.add(ticket(1, seq, ops=2))
    batch.add(ticket(1, 400, size_bytes=64 * KIB, bulk=True))
    assert seqs(batch.take(512, 1024 * KIB))[-1] < 400
    assert seqs(batch.take(512, 1024 * KIB))[-1] == 400


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
@pytest.mark.req("WS-31", "WS-37")
def test_lanes_keep_their_order_and_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    batch = OpenBatch()
    lanes = dict.fromkeys(range(1, 5), 0)
    taken: list[Ticket] = []
    added = 0
    while added < 120 or batch.ops:
        if added < 120 and rng.random() < 0.7:
            lane = rng.choice(list(lanes))
            lanes[lane] += 1
            bulk = rng.random() < 0.4
            size_bytes = rng.choice([200, 64 * KIB, 700 * KIB, 2000 * KIB]) if bulk else rng.choice([200, 9 * KIB])
            batch.add(ticket(lane, lanes[lane], size_bytes=size_bytes, bulk=bulk, ops=rng.randint(1, 20)))
            added += 1
        elif batch.ops:
            others = any(not t.bulk for t in batch._ordinary)
            got = batch.take(64, 1024 * KIB)
            assert got, f"seed {seed}: something waits and nothing is taken"
            if len(got) > 1:
                assert sum(t.ops for t in got) <= 64
                assert sum(t.size_bytes for t in got) <= 1024 * KIB
                if others:
                    assert sum(t.size_bytes for t in got if t.bulk) <= 512 * KIB
            taken += got
    for lane in lanes:
        order = [t.group.run.first_seq for t in taken if t.group.run.client_id == client(lane)]
        assert order == list(range(1, lanes[lane] + 1)), f"seed {seed}"
    assert batch.size_bytes == 0
