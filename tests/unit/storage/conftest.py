"""These tests sync often and pull no plug (a cut is made of a copy), so they run where syncing is free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.memory_directory import memory_directory


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with memory_directory(tmp_path) as path:
        yield path
