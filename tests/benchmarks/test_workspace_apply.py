"""Loose bounds on what file operations cost, wide enough for a busy machine: they catch a wrong order of growth."""

from __future__ import annotations

import random

import pytest

from hypercluster.state_machine.store import MemoryStore
from tests.benchmarks.workspace_apply import Bench, merkle_updates, prove
from tests.unit.workspace import ops


@pytest.mark.req("WS-35")
def test_a_merkle_update_costs_a_path() -> None:
    assert merkle_updates(20_000, seed=1) < 500


@pytest.mark.req("WS-35")
def test_an_append_costs_the_same_in_a_file_of_many_extents(capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    bench = Bench(MemoryStore())
    bench.found()
    small, large = bench.entry([ops.create(ops.ROOT, b"small"), ops.create(ops.ROOT, b"large")])
    for start in range(0, 3_000, 100):
        bench.entry([ops.write(large, (start + number) * 100, draw.randbytes(50)) for number in range(100)])
    middle: list[float] = []
    for inode_id in (small, large):
        spent: list[float] = []
        bench.entry([ops.append(inode_id, draw.randbytes(50)) for _ in range(200)], spent)
        middle.append(sorted(spent)[100])
    assert middle[1] < 10 * middle[0] + 200, middle
    bench.entry([ops.mkdir(ops.ROOT, b"d000")])
    prove(bench, [b""])
    assert "proof of a path" in capsys.readouterr().out
