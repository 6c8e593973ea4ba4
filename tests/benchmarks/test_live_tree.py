"""A loose bound on the speed of a replica, to catch a step that became expensive."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.live_tree import apply_rate


def test_a_log_is_applied_quickly(tmp_path: Path) -> None:
    _, per_cpu_s = apply_rate(3_000, tmp_path)
    assert per_cpu_s > 2_000  # about 14 000 of them are usual
