"""A loose bound on the mirror's speed, to catch a step that became expensive. The goal is 3 000 files/s on an idle host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.mirror_files import measure


@pytest.mark.req("WS-55")
def test_small_files_are_taken_quickly(tmp_path: Path) -> None:
    assert measure(600, tmp_path) > 150
