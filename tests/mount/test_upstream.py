"""What the run of git's own tests makes of their output, and which scripts it takes in which order."""

from __future__ import annotations

import time
from pathlib import Path

from tests.mount.torture.upstream import Outcome, Suite, sum_up

TAP = """\
ok 1 - plain
ok 2 # skip no pipes (missing PIPE)
not ok 3 - a lock # of its own
#	git update-ref
not ok 4 - renames # TODO known breakage
ok 5 - mode # 0644
ok 6 - symlinks # skip none here (missing SYMLINKS)
# failed 1 among 6 test(s)
1..6
"""


def test_cases_are_told_apart() -> None:
    outcome = Outcome("t9999")
    outcome.read(TAP)
    assert (outcome.passed, outcome.skipped, outcome.known_broken, outcome.end) == (2, 2, 1, "whole")
    assert outcome.failed == {3: "a lock # of its own"} and outcome.unexplained == outcome.failed
    outcome.failed_locally = [3]
    assert outcome.unexplained == {}


def test_what_the_specification_refuses_is_told_from_what_it_does_not() -> None:
    outcome = Outcome("t0052-simple-ipc", failed={1: "start simple command server", 10: "something else"})
    assert outcome.unexplained == {10: "something else"}
    assert sum_up([outcome], 1) == ["t0052-simple-ipc 10: something else", "nothing passed"]


def test_a_script_without_its_plan_did_not_run_to_its_end() -> None:
    outcome = Outcome("t9999")
    outcome.read(TAP.rpartition("1..6")[0])
    assert outcome.end == "stopped before its plan"


def test_scripts_are_found_in_order_and_run_below_the_place(tmp_path: Path) -> None:
    tests = tmp_path / "t"
    tests.mkdir()
    for name in ("t3000-b", "t1000-a", "t0000-basic"):
        (tests / f"{name}.sh").write_text('echo "ok 1 - in ${1#--root=}"\necho 1..1\n')
    suite = Suite(tmp_path, tmp_path)
    assert suite.scripts("t0000-* t1*-* t*-*") == ["t0000-basic", "t1000-a", "t3000-b"]
    outcome = suite.run("t1000-a", tmp_path / "mount", time.monotonic() + 60, lambda _: None)
    assert (outcome.passed, outcome.end) == (1, "whole")
    assert (tmp_path / "t1000-a.tap").read_text() == f"ok 1 - in {tmp_path}/mount\n1..1\n"


def test_a_script_that_goes_on_is_cut_off(tmp_path: Path) -> None:
    tests = tmp_path / "t"
    tests.mkdir()
    (tests / "t0000-basic.sh").write_text("tail -f /dev/null\n")
    outcome = Suite(tmp_path, tmp_path).run("t0000-basic", tmp_path, time.monotonic() + 0.2, lambda _: None)
    assert outcome.end.startswith("cut off")
