"""All three nodes are killed with SIGKILL at once, under load, again and again: no acknowledged write is lost.

A killed process leaves its page cache behind, so this shows the log, the replay, the elections and the dedupe of
retries; that the log really reaches the disk is shown by test_power_cut.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.load import Load
from tests.crash.rounds import Rounds, Verdict, kill_all
from tests.integration.cluster import Cluster

ROUNDS = int(os.environ.get("HYPERCLUSTER_KILL_ROUNDS", "50"))
SEED = int(os.environ.get("HYPERCLUSTER_KILL_SEED", "1"))


async def run(tmp_path: Path, rounds: int, seed: int, *arguments: str) -> Verdict:
    """`arguments` choose a test build."""
    print(f"seed {seed}, {rounds} rounds")
    module = "tests.known_bad.serve" if arguments else "hypercluster.cli.main"
    async with Cluster(tmp_path, module=module, arguments=arguments) as cluster:
        load = Load(cluster.client_settings(), tmp_path, seed)
        try:
            await load.start()
            driver = Rounds(cluster, load, seed, lambda: kill_all(cluster), lambda: None)
            await driver.run(rounds)
            found = await driver.verdict()
        finally:
            await load.stop(0)
    times_s = sorted(driver.first_commits_s)
    print(f"first commit after the restart: median {times_s[len(times_s) // 2]:.2f} s, longest {times_s[-1]:.2f} s")
    print("\n".join(found.lines()))
    return found


@pytest.mark.req("CL-2", "CL-12", "CH-4", "CH-5")
async def test_nothing_is_lost_when_all_nodes_are_killed(tmp_path: Path) -> None:
    found = await run(tmp_path, 3, SEED)
    assert found.holds


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.req("CL-2", "CL-12", "CH-4", "CH-5")
async def test_nothing_is_lost_in_many_rounds(tmp_path: Path) -> None:
    found = await run(tmp_path, ROUNDS, SEED)
    assert found.holds


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.req("CH-10", "D-7")
async def test_a_build_without_dedupe_is_caught(tmp_path: Path) -> None:
    """Retries of what was in flight at a kill are judged again there; the checker counts them."""
    found = await run(tmp_path, 5, SEED, "--bad", "dedupe_off")
    assert sum(len(report.twice) for report in found.reports.values()) > 0
    assert not found.holds
