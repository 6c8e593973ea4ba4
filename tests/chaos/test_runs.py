"""Whole runs of the harness: one that must hold, and known-bad builds that must not (CH-10).

HYPERCLUSTER_CHAOS_SEED chooses the seed of the smoke run; it is printed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
from pathlib import Path

import pytest

from chaos.__main__ import main
from chaos.cluster import why_not
from chaos.judging import BROKEN, HELD, NOT_RUN

SMOKE_S = 108  # of faults; start, healing and the last looks bring it to two minutes
SEED = int(os.environ.get("HYPERCLUSTER_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))

LOCK_FAULTS = ["--cluster", "local", "--only", "kill-leader,pause-leader", "--duration", "45"]


def verdicts_of(directory: Path) -> dict[str, str]:
    summary = json.loads(next(directory.glob("*/run.json")).read_text(encoding="utf-8"))
    return {verdict["checker"]: verdict["outcome"] for verdict in summary["verdicts"]}


@pytest.mark.req("CH-4", "CH-5", "CH-6")
@pytest.mark.timeout(300)
def test_a_cluster_that_is_broken_for_a_while_keeps_its_word(tmp_path: Path) -> None:
    """The smoke, two minutes: partitions, links, disks, clocks where this machine can make them, else processes."""
    print(f"HYPERCLUSTER_CHAOS_SEED={SEED}")
    faulthandler.cancel_dump_traceback_later()  # set for tests that end sooner; this one's own timeout stays
    scenario, kind = ("smoke", "local") if why_not("switch") else ("swarm", "switch")
    arguments = ["run", scenario, "--cluster", kind, "--seed", str(SEED), "--duration", str(SMOKE_S)]
    status = main([*arguments, "--directory", str(tmp_path)])
    assert status == HELD, verdicts_of(tmp_path)
    assert set(verdicts_of(tmp_path).values()) == {"yes"}
    assert (next(tmp_path.glob("*")) / "report.html").stat().st_size > 2_000


@pytest.mark.long
@pytest.mark.root
@pytest.mark.req("CH-10")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("bad", "arguments"),
    [
        ("no_fsync", ["disks", "--only", "power-all"]),
        ("ack_before_majority", ["kills", "--only", "kill-leader,partition-leader"]),
        ("stock_truncation", ["swarm", "--only", "partition-leader,link-loss,kill-leader"]),
        ("dedupe_off", ["kills", "--cluster", "local", "--only", "kill-leader,pause-leader"]),
        ("stale_reads", ["partitions", "--nodes", "3", "--only", "partition-leader,partition-leader-mute"]),
        ("out_of_order", ["smoke"]),
        ("no_excl", ["smoke"]),
        ("locks_no_fencing", ["locks", *LOCK_FAULTS]),
        ("locks_no_grace", ["locks", *LOCK_FAULTS]),
        ("locks_tokens_reused", ["locks", *LOCK_FAULTS]),
        ("locks_any_worker_reclaims", ["locks", *LOCK_FAULTS]),
        ("renew_without_round", ["awakenings"]),
    ],
)
def test_the_harness_says_no_to_a_known_bad_build(tmp_path: Path, bad: str, arguments: list[str]) -> None:
    for seed in range(1, 6):
        status = main(["run", *arguments, "--bad", bad, "--seed", str(seed), "--directory", str(tmp_path)])
        if status == NOT_RUN:
            pytest.skip("not run: this machine can not make these faults")
        if status == BROKEN:
            print(f"{bad}: found with seed {seed}")
            return
    pytest.fail(f"{bad} was not found with 5 seeds")
