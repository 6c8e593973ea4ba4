"""A loose bound on the speed of the mirror, to catch a step that became expensive (the goal: 3 000 files a second)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.mirror_files import measure


@pytest.mark.req("WS-55")
def test_small_files_are_taken_quickly(tmp_path: Path) -> None:
    assert measure(600, tmp_path) > 150
