"""Every defect in the track record has a command that shows it, and the command finds a test (CH-8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.track_record import problems, rows

ROOT = Path(__file__).resolve().parents[2]
HEAD = "## Track record\n\n| what | found by | command |\n|---|---|---|\n"


@pytest.mark.req("CH-8")
def test_every_row_of_the_track_record_can_be_followed() -> None:
    text = (ROOT / "chaos" / "README.md").read_text(encoding="utf-8")
    assert len(rows(text)) > 30
    assert problems(text, ROOT) == []


@pytest.mark.req("CH-8")
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("| a node stopped | kill-one | |", "three cells"),
        ("| a node stopped | kill-one | look at the log |", "no command"),
        ("| a node stopped | kill-one | `pytest tests/gone/test_it.py` |", "there is no"),
        ("| a node stopped | kill-one | `pytest tests/chaos/__init__.py` |", "no test"),
        ("| a node stopped | kill-one | `pytest tests/chaos/test_track_record.py -k nothing_of_this_name` |", "called"),
    ],
)
def test_a_row_that_leads_nowhere_is_named(row: str, words: str) -> None:
    found = problems(f"{HEAD}{row}\n\n## What runs\n", ROOT)
    assert len(found) == 1
    assert words in found[0]
