"""What the torture of git holds against a mount, and what not."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tests.mount.torture.fleet import Disturbance
from tests.mount.torture.hands import AFTERMATH_S, Hand, Quiet, locks_of

GONE = "Transport endpoint is not connected"


@pytest.mark.parametrize(
    ("ended_s", "words", "held_against"),
    [
        (100.0, GONE, True),  # long after the kill
        (200.0, GONE, False),  # begun before what was killed was there again
        (float("inf"), GONE, False),  # it is not there yet
        (100.0, "fatal: Unable to create 'index.lock': File exists.", False),
    ],
)
def test_a_failure_counts_unless_a_kill_or_another_hand_explains_it(
    tmp_path: Path, ended_s: float, words: str, held_against: bool
) -> None:
    hand = Hand(0, 1, tmp_path, random.Random(1), Quiet(), [Disturbance(90.0, ended_s)])
    hand.judge_failure("git status", words, 100.0 + AFTERMATH_S + 1.0)
    assert bool(hand.problems) is held_against


def test_locks_are_removed_when_no_command_runs(tmp_path: Path) -> None:
    hand = Hand(0, 1, tmp_path, random.Random(1), Quiet(), [])
    common = tmp_path / "repository" / ".git"
    left = [common / name for name in ("packed-refs.lock", "refs/heads/a.lock", "worktrees/tree1/index.lock", "gc.pid")]
    for lock in left:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    assert sorted(locks_of(tmp_path)) == sorted(left)
    with hand.quiet.command():
        remover = threading.Thread(target=hand.remove_locks)
        remover.start()
        end_s = time.monotonic() + 30
        while not hand.quiet.is_waited_for:
            assert time.monotonic() < end_s
        assert all(lock.exists() for lock in left)
    remover.join()
    assert locks_of(tmp_path) == [] and hand.locks_removed == len(left)
