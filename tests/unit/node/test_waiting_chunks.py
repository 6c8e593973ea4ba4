"""Chunks that wait to be deleted: whatever comes back is never given out (WS-54)."""

from __future__ import annotations

import random

import pytest
from blake3 import blake3

from hypercluster.node import waiting_chunks
from hypercluster.node.waiting_chunks import WaitingChunks
from hypercluster.values import Index


def a_hash(number: int) -> bytes:
    return blake3(b"%d" % number).digest()


def at_any_time(_index: Index, _found_s: float) -> bool:
    return True


@pytest.mark.req("WS-54")
@pytest.mark.parametrize("seed", range(20))
def test_it_gives_out_what_waits_once_and_nothing_that_came_back(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    waiting, model, number, index = WaitingChunks(500), dict[bytes, int](), 0, 0
    returned: set[bytes] = set()
    for _ in range(400):
        match rng.randrange(4):
            case 0:
                count = min(rng.randrange(40), waiting.room)
                found = [a_hash(number + offset) for offset in range(count)]
                number, index = number + count, index + 1
                waiting.add(Index(index), float(index), found)
                model.update(dict.fromkeys(found, index))
            case 1:
                back = a_hash(rng.randrange(number + 1))
                waiting.came_back(back)
                if back in model:
                    returned.add(back)
            case _:
                most, count = rng.randrange(index + 2), rng.randrange(60)
                taken = waiting.take(count, lambda at, found_s, most=most: at <= most)
                due = [found for found, at in model.items() if at <= most][:count]
                assert taken == [found for found in due if found not in returned]
                for found in due:
                    del model[found]
                    returned.discard(found)
        assert (len(waiting), waiting.room) == (len(model), 500 - len(model))


def test_a_filter_that_knows_nothing_of_it_remembers_no_chunk() -> None:
    waiting = WaitingChunks()
    waiting.came_back(a_hash(0))
    waiting.add(Index(1), 0.0, [a_hash(0)])
    for number in range(1, 10_000):
        waiting.came_back(a_hash(number))
    assert not waiting._returned
    assert waiting.take(10, at_any_time) == [a_hash(0)], "it came back before it was found"
    assert waiting.take(10, at_any_time) == []


def test_where_too_many_come_back_all_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_chunks, "RETURNED_MAX", 5)
    waiting = WaitingChunks()
    found = [a_hash(number) for number in range(20)]
    waiting.add(Index(1), 0.0, found)
    for chunk_hash in found[:5]:
        waiting.came_back(chunk_hash)
    assert len(waiting) == 20
    waiting.came_back(found[5])
    assert (len(waiting), waiting.take(100, at_any_time)) == (0, [])
