"""Recorded histories get the verdicts they got, for ever: good runs, and runs of builds that were known to be bad.

Every directory below histories/ is one; histories/README.md says how to add one. Its expected.json holds the outcome
of each checker it names; a checker it does not name is not asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos.checkers import CHECKERS
from chaos.history import EXPECTED, KEPT_BYTES_MAX, read_run

pytestmark = pytest.mark.req("CH-5", "CH-6")

HISTORIES = Path(__file__).with_name("histories")
KEPT = sorted(path.parent for path in HISTORIES.glob(f"*/{EXPECTED}"))
BUDGET_S = 100.0  # a bound for a machine with other things to do; it takes a second or two
# Verdicts of the runner about the run itself; they can not be had from a directory again.
OF_THE_RUN = frozenset({"nemeses", "liveness", "load", "observer", "nodes", "enough"})


def expected_of(kept: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((kept / EXPECTED).read_text(encoding="utf-8"))
    return expected


def test_every_directory_is_a_recorded_history() -> None:
    for path in HISTORIES.iterdir():
        if path.is_dir():
            assert path in KEPT, f"{path.name} has no {EXPECTED}"
            assert "say here" not in expected_of(path)["words"], f"{path.name}: {EXPECTED} has to say what it shows"
            assert sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) <= KEPT_BYTES_MAX, path.name


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_a_recorded_history_gets_its_verdicts(kept: Path) -> None:
    run = read_run(kept, BUDGET_S)
    assert run.events
    wanted = {name: outcome for name, outcome in expected_of(kept)["verdicts"].items() if name not in OF_THE_RUN}
    assert wanted, f"{kept.name} expects nothing of any checker"
    found = {name: CHECKERS[name].check(run) for name in wanted}
    assert {name: verdict.outcome for name, verdict in found.items()} == wanted, found
