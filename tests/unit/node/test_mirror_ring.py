"""Where mirror streams are, and how slowly they move (QUO-5)."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.errors import QueueFullError
from hypercluster.limits import RING_MEMBERS_MAX, RING_STREAMS_MAX
from hypercluster.node import mirror_ring
from hypercluster.node.mirror_ring import MirrorRing, Move, Ring

S = 1_000_000_000
FIVE_MIN = 300 * S
PACKAGE = Path(mirror_ring.__file__).parents[1]
names = st.sets(st.sampled_from([f"l{n}" for n in range(12)]), min_size=1)


def streams(count: int) -> list[str]:
    return [f"stream-{n}" for n in range(count)]


def placed(members: list[str], count: int = 100) -> MirrorRing:
    ring = MirrorRing()
    ring.set_members(0, members)
    for stream in streams(count):
        ring.add(stream)
    return ring


@given(names, st.data())
@settings(max_examples=30, deadline=None)
def test_who_comes_or_goes_moves_no_stream_between_the_others(members: set[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(members)))
    before, after = Ring(members), Ring(members - {gone})
    for stream in streams(200):
        if before.owner(stream) != gone:
            assert after.owner(stream) == before.owner(stream)
        else:
            assert after.owner(stream) != gone


def test_streams_are_spread() -> None:
    ring = Ring([f"l{n}" for n in range(8)])
    counts = Counter(ring.owner(stream) for stream in streams(8_000))
    assert len(counts) == 8
    assert max(counts.values()) < 1.5 * 1_000
    assert min(counts.values()) > 0.6 * 1_000


def test_the_ring_is_the_same_in_every_process_and_whatever_the_order() -> None:
    code = (
        "from hypercluster.node.mirror_ring import Ring\n"
        "ring = Ring({'l3', 'l1', 'l2'})\n"
        "print([ring.owner(f'stream-{n}') for n in range(50)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=dict(os.environ, PYTHONHASHSEED=seed),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = Ring(["l2", "l3", "l1", "l1"])
    assert told == {f"{[here.owner(stream) for stream in streams(50)]}\n"}


def test_nothing_moves_before_five_minutes_of_the_same_members() -> None:
    ring = placed(["l1", "l2", "l3"])
    ring.set_members(1_000 * S, ["l1", "l2"])
    assert ring.next_deadline_ns() == 1_000 * S + FIVE_MIN
    assert ring.advance(1_000 * S + FIVE_MIN - 1) == []
    ring.set_members(1_200 * S, ["l1", "l2", "l4"])  # anew
    assert ring.advance(1_000 * S + FIVE_MIN) == []
    assert ring.advance(1_200 * S + FIVE_MIN - 1) == []
    assert ring.advance(1_200 * S + FIVE_MIN)


def test_the_same_members_again_are_no_change() -> None:
    ring = placed(["l1", "l2", "l3"])
    ring.set_members(1_000 * S, ["l1", "l2"])
    ring.set_members(1_200 * S, ["l2", "l1"])
    assert ring.advance(1_000 * S + FIVE_MIN)


def test_a_quarter_moves_in_a_window_what_was_left_behind_first() -> None:
    ring = placed(["l1", "l2", "l3", "l4"], 80)
    left = {stream for stream in streams(80) if ring.holder(stream) == "l1"}
    ring.set_members(0, ["l2", "l3", "l5", "l6"])
    left |= {stream for stream in streams(80) if ring.holder(stream) == "l4"}
    now_ns, batches = FIVE_MIN, []
    while (moves := ring.advance(now_ns)) or ring.next_deadline_ns() is not None:
        assert len(moves) <= 20
        assert ring.advance(now_ns + FIVE_MIN - 1) == []
        batches.append(moves)
        now_ns += FIVE_MIN
    assert len(batches) >= 3
    moved = [move for moves in batches for move in moves]
    assert {move.stream for move in moved[: len(left)]} == left
    assert len({move.stream for move in moved}) == len(moved), "each once"
    there = Ring(["l2", "l3", "l5", "l6"])
    assert all(ring.holder(stream) == there.owner(stream) for stream in streams(80))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_whatever_happens_no_five_minutes_see_more_than_a_quarter_move(seed: int) -> None:
    rng = random.Random(seed)
    ring, twin = MirrorRing(), MirrorRing()
    now_ns = changed_ns = 0
    members: list[str] = []
    there = Ring(members)
    history: list[tuple[int, int]] = []
    count = rng.randint(4, 60)
    for each in (ring, twin):
        for stream in streams(count):
            each.add(stream)
    for _ in range(120):
        now_ns += rng.randint(0, 200 * S)
        if rng.random() < 0.15:
            wanted = sorted(rng.sample([f"l{n}" for n in range(8)], rng.randint(0, 8)))
            changed_ns = changed_ns if wanted == members else now_ns
            members, there = wanted, Ring(wanted)
            for each in (ring, twin):
                each.set_members(now_ns, members)
        held = {stream: ring.holder(stream) for stream in streams(count)}
        moves = ring.advance(now_ns)
        assert moves == twin.advance(now_ns), "the same calls, the same answers"
        for move in moves:
            assert held[move.stream] == move.source != move.target
            assert ring.holder(move.stream) == move.target == there.owner(move.stream)
        unmoved = held.keys() - {move.stream for move in moves}
        assert all(ring.holder(stream) == held[stream] for stream in unmoved)
        if moves:
            assert now_ns - changed_ns >= FIVE_MIN
            history.append((now_ns, len(moves)))
        recent = sum(moved for at_ns, moved in history if now_ns - at_ns < FIVE_MIN)
        assert recent <= max(1, count // 4)


def test_a_stream_without_members_waits_for_the_first_and_then_has_its_place_at_once() -> None:
    ring = MirrorRing()
    assert ring.add("stream-1") is None
    assert (ring.next_deadline_ns(), ring.advance(10**15)) == (None, [])
    ring.set_members(7, ["l1"])
    assert ring.holder("stream-1") == "l1"
    ring.set_members(8, [])
    assert (ring.holder("stream-1"), ring.next_deadline_ns()) == ("l1", None), "nowhere to go"
    ring.remove("stream-1")
    assert len(ring) == 0


def test_where_a_quarter_is_less_than_one_one_moves() -> None:
    ring = placed(["l1"], 2)
    ring.set_members(0, ["l2"])
    first = ring.advance(FIVE_MIN)
    assert len(first) == 1
    assert first + ring.advance(2 * FIVE_MIN) == sorted(
        [Move(stream, "l1", "l2") for stream in streams(2)], key=lambda m: m.stream != first[0].stream
    )


def test_members_and_streams_are_bounded() -> None:
    with pytest.raises(QueueFullError, match="RING_MEMBERS_MAX"):
        Ring(str(n) for n in range(RING_MEMBERS_MAX + 1))
    ring = placed(["l1"], RING_STREAMS_MAX)
    with pytest.raises(QueueFullError, match="RING_STREAMS_MAX"):
        ring.add("one more")
    assert ring.add("stream-1") == "l1"


def test_the_ring_has_no_say_in_a_quorum() -> None:
    """It knows nothing of voters, and nothing that elects, counts or applies knows of it."""
    imported = {
        node.module
        for node in ast.walk(ast.parse(Path(mirror_ring.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    ours = {module for module in imported if module and module.startswith("hypercluster")}
    assert ours == {"hypercluster.errors", "hypercluster.limits"}
    for package in ("raft", "state_machine", "storage", "log"):
        for file in (PACKAGE / package).rglob("*.py"):
            assert "mirror_ring" not in file.read_text(encoding="utf-8"), file
