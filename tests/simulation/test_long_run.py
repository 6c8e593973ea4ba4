"""A stretch of the long run, the whole of it as a long test, and builds that it must not pass (CH-11).

LONG_SEED chooses another seed for the stretch, and one for the day, which draws its own otherwise.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from hypercluster.node import mirror_ring
from hypercluster.node.fanout import Fanout, Watch
from hypercluster.node.phi import Durations
from tests.simulation.long_run import run_long
from tests.simulation.long_world import LongSummary, growth

SEED = os.environ.get("LONG_SEED")
BAD_SEED, BAD_HOURS, BAD_WORKERS = 2, 0.3, 40


def held(seed: int, hours: float) -> LongSummary:
    print(f"LONG_SEED={seed}; again: python -m tests.simulation.long_run --seed {seed} --hours {hours:g}")
    found = run_long(seed, hours)
    assert isinstance(found, LongSummary), found
    assert found.run.ok > 0.3 * found.run.invoked
    assert found.deliveries + found.skipped >= 200 * found.records > 0
    assert found.deliveries > 100 * found.records
    assert found.detected > 0
    return found


@pytest.mark.req("CH-11")
def test_a_stretch_of_a_long_run_holds() -> None:
    found = held(int(SEED or 100), 0.3)
    assert found.run.faults > 10


@pytest.mark.long
@pytest.mark.req("CH-11")
@pytest.mark.timeout(1_200)
def test_a_day_of_200_workers_holds() -> None:
    found = held(int(SEED or random.SystemRandom().randrange(1 << 32)), 24.0)
    assert found.run.virtual_s >= 24 * 3600
    assert found.run.faults > 150
    assert min(found.cutovers, found.ring_windows, found.replaced, found.run.checkpoints_installed) > 0
    print(found)


@pytest.mark.req("CH-11")
def test_one_seed_one_day_in_any_process() -> None:
    told = set()
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-m", "tests.simulation.long_run", "--seed", "3", "--hours", "0.1", "--workers", "20"],
            env=dict(os.environ, PYTHONHASHSEED=hash_seed),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        told.add("\n".join(line for line in out.splitlines() if not line.startswith("CPU")))
    assert len(told) == 1


@pytest.mark.req("CH-11")
def test_what_grows_with_time_is_told_from_what_varies() -> None:
    steady = [Counter({"Watch": 200 - number % 3, "LogEntry": 50 * number, "Lane": 4}) for number in range(24)]
    assert growth(steady)[1] == {}
    leaks = [sample + Counter({"Watch": 150 * number}) for number, sample in enumerate(steady)]
    assert growth(leaks)[1] == {"Watch": (1848, 3648)}


def _forgets_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fanout, "forget", lambda self, watch: None)


def _gives_twice(patch: pytest.MonkeyPatch) -> None:
    take = Watch._take_live

    def again(self: Watch) -> bytes | None:
        message = take(self)
        if message is not None:
            self.next_index -= 1
        return message

    patch.setattr(Watch, "_take_live", again)


def _drops_what_overflows(patch: pytest.MonkeyPatch) -> None:
    def read_on(self: Watch) -> None:
        found = self._fanout.op_log.head(self.workspace_id)
        self.next_index = found.log_index + 1 if found is not None else self.next_index
        self._lagging = False

    patch.setattr(Watch, "_read_on", read_on)


def _moves_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mirror_ring, "STABLE_NS", 60 * 10**9)


def _moves_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mirror_ring, "RING_MOVES_PERCENT", 100)


def _waits_too_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Durations, "timeout_ns", lambda self, k=160: 120 * 10**9)


def _is_too_quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Durations, "timeout_ns", lambda self, k=160: self.estimate_ns() * 80 // 100)


@pytest.mark.req("CH-11")
@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (_forgets_nothing, "watches are left over"),
        (_gives_twice, "log not gap-free"),
        (_drops_what_overflows, "log not gap-free"),
        (_moves_at_once, "ring moved too soon"),
        (_moves_everything, "ring moved too much"),
        (_waits_too_long, "silence overlooked"),
        (_is_too_quick, "false alarms"),
    ],
)
def test_a_known_bad_build_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, bad: Callable[[pytest.MonkeyPatch], None], rule: str
) -> None:
    bad(monkeypatch)
    found = run_long(BAD_SEED, BAD_HOURS, BAD_WORKERS)
    assert isinstance(found, str), f"nothing was found: {found}"
    assert found.startswith(f"{rule}:")
