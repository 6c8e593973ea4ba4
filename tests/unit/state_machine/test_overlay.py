"""What an entry reads and writes, and how much of it is remembered."""

from __future__ import annotations

import random

import pytest

from hypercluster.state_machine import overlay as overlays
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, MemoryStore

KEYS = [b"key %d" % number for number in range(40)]


def remembered_bytes(overlay: Overlay) -> int:
    caches = overlay._cache
    return sum(len(value) for cache in caches for value in cache.values() if isinstance(value, bytes))


@pytest.mark.req("D-4")
@pytest.mark.parametrize("seed", range(4))
def test_the_cache_is_bounded_in_bytes_and_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of 64 KiB (xattrs) would make a bound on keys alone one of 12 GiB."""
    monkeypatch.setattr(overlays, "CACHE_BYTES_MAX", 10_000)
    draw = random.Random(seed)
    store, model = MemoryStore(), dict[bytes, bytes]()
    overlay = Overlay(store)
    for _ in range(200):
        for _ in range(draw.randint(1, 12)):
            key = draw.choice(KEYS)
            assert overlay.get(Family.TREE, key) == model.get(key), f"seed {seed}"
            if draw.random() < 0.3:
                overlay.delete(Family.TREE, key)
                model.pop(key, None)
            else:
                model[key] = draw.randbytes(draw.choice([1, 100, 3_000]))
                overlay.put(Family.TREE, key, model[key])
        store.write(overlay.take_changes())
        assert remembered_bytes(overlay) <= 10_000
        if draw.random() < 0.02:
            overlay.discard()
    assert {found.key: found.value for found in store.items()} == model
