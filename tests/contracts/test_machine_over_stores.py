"""The machine over every store: the same digests, also when it loses its caches on the way."""

from __future__ import annotations

import pathlib
import random

import pytest

from hypercluster.log.entry import decode_entry
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import Store
from hypercluster.values import Index, Term
from tests.contracts.stores import STORES, close
from tests.golden.log.claim_workload import claim_entries
from tests.golden.log.lock_workload import lock_entries
from tests.golden.log.workload import core_entries, file_entries

SEED = 11


def replay(store: Store, payloads: list[bytes], restarts: random.Random | None) -> list[str]:
    machine = Machine(store)
    digests = []
    for index, payload in enumerate(payloads, 1):
        if restarts is not None and restarts.random() < 0.2:
            machine = Machine(store)
        applied = machine.apply(Index(index), Term(1), decode_entry(payload))
        store.write(applied.changes)
        digests.append(applied.digest.hex())
    return digests


@pytest.mark.req("CL-17", "D-4", "CL-7")
@pytest.mark.parametrize("entries", [core_entries, file_entries, lock_entries, claim_entries])
@pytest.mark.parametrize("name", STORES)
def test_every_store_gives_the_same_digests(name: str, entries: object, tmp_path: pathlib.Path) -> None:
    payloads = list(entries(SEED, 80))  # type: ignore[operator]
    expected = replay(STORES["memory"](tmp_path), payloads, None)
    store = STORES[name](tmp_path)
    try:
        assert replay(store, payloads, random.Random(SEED)) == expected, f"seed {SEED}"
    finally:
        close(store)
