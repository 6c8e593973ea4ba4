"""Broken builds of the lock table, each of which the walks of tests/properties/test_locks.py must catch."""

from __future__ import annotations

import pytest

from hypercluster.errors import ApplyFailedError, InvariantError
from tests.known_bad.lock_builds import BUILDS
from tests.properties.test_locks import walk_through

SEEDS = 10


def walks() -> None:
    for seed in range(SEEDS):
        walk_through(seed)


def test_the_product_passes_the_same_walks() -> None:
    walks()


@pytest.mark.req("CH-10", "WS-40", "WS-41", "WS-42", "WS-43", "WS-47", "D-10")
@pytest.mark.parametrize("name", BUILDS)
def test_a_broken_lock_table_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUILDS[name](monkeypatch.setattr)
    with pytest.raises((AssertionError, ApplyFailedError, InvariantError)):
        walks()
